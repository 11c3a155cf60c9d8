package main

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"

	"skiff/test/hosts"
)

// agentsRound measures agents that join a server one after the other, and what
// each costs while nothing happens.
func agentsRound(p *hosts.Program, o options, archive string, f figures) {
	network := hosts.NewNetwork(p)
	server := &node{Host: hosts.New(p, hosts.Named("server"), hosts.On(network)), p: p, f: f}
	server.StartServer()
	server.WaitReady()
	server.connect()
	time.Sleep(5 * time.Second) // A server that is there is not one that has just started.
	var agents []*node
	for i := range o.agents {
		h := hosts.New(p, hosts.Named(fmt.Sprintf("agent%d", i+1)), hosts.On(network))
		a := &node{Host: h, p: p, f: f, kube: server.kube}
		begin := time.Now()
		a.StartAgent(server.Host)
		a.ownNodeReady(begin)
		f.since("agent: exec to node Ready", begin)
		a.WaitReady()
		f.since("agent: exec to all ready", begin)
		a.components("agent start")
		a.Stop()
		time.Sleep(1100 * time.Millisecond) // Heartbeats have whole seconds: this one's must be another.
		begin = time.Now()
		a.Start()
		a.ownNodeReady(begin)
		f.since("agent: restart to node Ready", begin)
		a.WaitReady()
		agents = append(agents, a)
	}
	time.Sleep(o.settle)
	agents[0].atRest("agent: idle", o.window) // all are alike
	if o.traffic > 0 {
		agents[0].traffic(o.traffic)
	}
	agents[0].withoutServer(server, archive)
	for _, a := range agents {
		a.Stop()
	}
}

// ownNodeReady is nodeReady for one node of several.
func (n *node) ownNodeReady(begin time.Time) {
	ctx, stop := context.WithTimeout(context.Background(), limit)
	defer stop()
	n.watch(ctx, "node "+n.Name()+" to be Ready", func() (watch.Interface, error) {
		return n.kube.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", n.Name()).String()})
	}, readySince(begin))
}

// traffic adds what passes the host's network card while the agent is idle.
func (n *node) traffic(window time.Duration) {
	d := split(n.tap(window), window)
	const mega = 1e6
	n.f.add("agent: idle traffic, node leases and status", "MB/day", d.leases/mega)
	n.f.add("agent: idle traffic, tunnel", "MB/day", d.tunnel/mega)
	n.f.add("agent: idle traffic, everything else", "MB/day", d.rest/mega)
	n.f.add("agent: idle traffic beyond leases and status", "MB/day", (d.tunnel+d.rest)/mega)
}
