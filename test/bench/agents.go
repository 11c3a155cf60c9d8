package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
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
	var all sync.WaitGroup
	for _, a := range agents {
		all.Go(func() { a.traffic(o.window) })
	}
	for _, a := range agents[:1] { // figures are not for concurrent use, and all are alike
		a.atRest("agent: idle", o.window)
	}
	all.Wait()
	for _, a := range agents {
		f.add("agent: idle traffic with the server, leases and status included", "MB/day", a.bytes/1e6/o.window.Hours()*24)
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

// traffic counts what passes the host's network card in a window.
func (n *node) traffic(window time.Duration) {
	before := n.passed()
	time.Sleep(window)
	n.bytes = n.passed() - before
}

// passed is how many bytes eth0 has received and sent.
func (n *node) passed() float64 {
	for line := range strings.Lines(n.Run("cat", "/proc/net/dev")) {
		words := strings.Fields(line)
		if len(words) < 10 || words[0] != "eth0:" {
			continue
		}
		received, err1 := strconv.ParseFloat(words[1], 64)
		sent, err2 := strconv.ParseFloat(words[9], 64)
		if err1 == nil && err2 == nil {
			return received + sent
		}
	}
	n.p.Fatalf("host %s has no eth0 in /proc/net/dev", n.Name())
	return 0
}
