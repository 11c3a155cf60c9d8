// Command bench measures the built skiff on fresh hosts of test/hosts and
// prints JSON: how long a start takes and where the time goes, what an idle
// node costs, how fast pods start and what the API bears. It knows skiff's
// command line and the Kubernetes API, nothing of what is inside. Start reading
// at round.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"skiff/test/hosts"
	"skiff/test/images"
)

// options are the flags.
type options struct {
	rounds   int
	settle   time.Duration
	window   time.Duration
	pods     int
	objects  int
	services bool
	stores   string
	policy   int
	ingress  time.Duration
	agents   int
	traffic  time.Duration
	node     bool
	hollow   int
	out      string
}

func main() {
	hosts.Init()
	var o options
	flag.IntVar(&o.rounds, "rounds", 3, "fresh hosts to measure, one after the other")
	flag.DurationVar(&o.settle, "settle", 120*time.Second, "idle time before memory, CPU and writes are measured")
	flag.DurationVar(&o.window, "window", 60*time.Second, "how long CPU and writes are measured")
	flag.IntVar(&o.pods, "pods", 50, "pods started one after the other")
	flag.IntVar(&o.objects, "objects", 1000, "objects of the API load; 0 leaves it out")
	flag.BoolVar(&o.services, "services", true, "also measure the packaged services in use")
	flag.StringVar(&o.stores, "stores", "", "other stores to measure the API on as well, a list of etcd and kine")
	flag.IntVar(&o.policy, "policies", 500, "network policies to program, with twice as many pods; 0 leaves it out")
	flag.DurationVar(&o.ingress, "ingress", 2*time.Second, "how long the ingress, and nginx to compare it with, are asked in each of several runs; 0 leaves it out")
	flag.IntVar(&o.agents, "agents", 1, "agents that join a server of their own; 0 leaves them out")
	flag.DurationVar(&o.traffic, "traffic", 10*time.Minute, "how long the traffic of an idle agent is measured; 0 leaves it out")
	flag.BoolVar(&o.node, "node", true, "measure the node itself: idle cost, restart, services, pods, API and binary")
	flag.IntVar(&o.hollow, "hollow", 50, "nodes without containers that join a server; 0 leaves it out")
	flag.StringVar(&o.out, "out", "", "file for the JSON (default standard output)")
	flag.Parse()
	os.Exit(hosts.RunProgram("bench", os.Stderr, func(p *hosts.Program) { run(p, o) }))
}

func run(p *hosts.Program, o options) {
	if err := hosts.Reap(); err != nil {
		p.Errorf("remove what an earlier run has left: %v", err)
	}
	dir, err := os.MkdirTemp("", "skiff-bench-")
	if err != nil {
		p.Fatalf("%v", err)
	}
	p.Cleanup(func() { _ = os.RemoveAll(dir) })
	archive, err := images.WriteTool(hosts.Root(p), dir)
	if err != nil {
		p.Fatalf("make the test image: %v", err)
	}
	f := figures{}
	for i := range o.rounds {
		p.Logf("round %d of %d", i+1, o.rounds)
		// A program of its own per round, so that its host is gone before the next.
		code := hosts.RunProgram("bench", os.Stderr, func(p *hosts.Program) { round(p, o, archive, f) })
		if code != 0 {
			p.Fatalf("round %d has failed", i+1)
		}
		for _, store := range o.others() {
			if hosts.RunProgram("bench", os.Stderr, func(p *hosts.Program) { storeRound(p, o, store, f) }) != 0 {
				p.Fatalf("round %d has failed on %s", i+1, store)
			}
		}
		if o.agents > 0 && hosts.RunProgram("bench", os.Stderr, func(p *hosts.Program) { agentsRound(p, o, archive, f) }) != 0 {
			p.Fatalf("round %d has failed with agents", i+1)
		}
		if o.policy > 0 {
			policyRound(p, o.policy, f)
		}
		if o.hollow > 0 && hosts.RunProgram("bench", os.Stderr, func(p *hosts.Program) { hollowRound(p, o.hollow, o.settle/2, f) }) != 0 {
			p.Fatalf("round %d has failed with hollow nodes", i+1)
		}
	}
	if o.node {
		binary := hosts.Binary(p)
		f.add("binary", "bytes", fileSize(p, binary))
		name, packed := compressed(p, binary, dir)
		f.add("binary "+name, "bytes", packed)
	}
	write(p, o, f)
}

// write prints the report.
func write(p *hosts.Program, o options, f figures) {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	load, _ := os.ReadFile("/proc/loadavg")
	report := map[string]any{
		"machine": map[string]any{"cpus": runtime.NumCPU(), "kernel": strings.TrimSpace(string(kernel)), "load_at_end": strings.TrimSpace(string(load))},
		"rounds":  o.rounds, "settle_s": o.settle.Seconds(), "window_s": o.window.Seconds(),
		"time":    time.Now().UTC().Format(time.RFC3339),
		"figures": f.summary(),
	}
	b, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		p.Fatalf("%v", err)
	}
	if o.out == "" {
		fmt.Println(string(b))
		return
	}
	if err := os.WriteFile(o.out, append(b, '\n'), 0o644); err != nil {
		p.Fatalf("%v", err)
	}
}

// round measures one fresh host. The order matters: idle figures are taken
// before any load.
func round(p *hosts.Program, o options, archive string, f figures) {
	h := hosts.New(p)
	image, err := os.ReadFile(archive)
	if err != nil {
		p.Fatalf("%v", err)
	}
	h.WriteFile("/var/lib/skiff/agent/images/tool.tar", string(image))
	b := &node{Host: h, p: p, f: f, prefix: "API"}
	b.coldStart()
	if o.node {
		b.rest(o)
	}
	if o.ingress > 0 {
		b.ingress(o.ingress)
	}
	h.Stop()
}

// rest measures the node after its start.
func (n *node) rest(o options) {
	n.idle(o.settle, o.window)
	n.restart()
	if o.services {
		n.services(o.window / 2)
	}
	n.sequentialPods(o.pods)
	if o.objects > 0 {
		n.apiLoad(o.objects)
	}
}
