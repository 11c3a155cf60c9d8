package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"skiff/test/hosts"
	"skiff/test/images"
)

// registries sends every pull to our own registry, so that what cannot
// succeed fails at once.
const registries = `mirrors:
  "*":
    endpoint: ["http://127.0.0.1:5000"]
`

// testHandler is the runtime handler that the RuntimeClass specs ask for.
const testHandler = `version = 3
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.test-handler]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.test-handler.options]
BinaryName = "/var/lib/skiff/bin/runc"
`

// startNodes starts a server, on whose host the specs run, and the agents, and
// waits until pods can start on all of them without a pull.
func startNodes(p hosts.T, o options) *hosts.Host {
	network := hosts.NewNetwork(p)
	server := newNode(p, o, network, "conformance", "skiff.log", hosts.WithBind(hosts.Bind{From: o.report, To: inside + "-report"}))
	server.StartServer()
	nodes := []*hosts.Host{server}
	for i := range o.agents {
		name := fmt.Sprintf("agent%d", i+1)
		agent := newNode(p, o, network, name, name+".log")
		agent.StartAgent(server)
		nodes = append(nodes, agent)
	}
	for _, n := range nodes {
		n.WaitReady()
		waitForImages(p, n, filepath.Join(o.dir, "images", "archives"))
	}
	return server
}

// newNode makes a host that has the images, and keeps its log with the report.
func newNode(p hosts.T, o options, network *hosts.Network, name, log string, extra ...hosts.Option) *hosts.Host {
	h := hosts.New(p, append([]hosts.Option{
		hosts.Named(name), hosts.On(network),
		hosts.WithBind(hosts.Bind{From: o.dir, To: inside, ReadOnly: true}),
		hosts.WithBind(hosts.Bind{From: filepath.Join(o.dir, "images", "archives"), To: imagesDir, ReadOnly: true}),
	}, extra...)...)
	serveRegistry(p, h, images.Layout{Dir: filepath.Join(o.dir, "images")})
	h.WriteFile("/etc/skiff/registries.yaml", registries)
	h.WriteFile("/var/lib/skiff/agent/etc/containerd/config.toml.d/test-handler.toml", testHandler)
	keep := filepath.Join(o.report, log)
	p.Cleanup(func() {
		if err := os.WriteFile(keep, []byte(h.Log()), 0o644); err != nil {
			p.Errorf("keep the log: %v", err)
		}
	})
	return h
}

// serveRegistry serves the images inside the host: one spec pulls always.
func serveRegistry(p hosts.T, h *hosts.Host, l images.Layout) {
	server := &http.Server{Handler: l.Registry(), ReadHeaderTimeout: 10 * time.Second}
	listener := h.ListenIn("127.0.0.1:5000")
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	p.Cleanup(func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			p.Errorf("serve the registry: %v", err)
		}
	})
}

// waitForImages waits until all archives are imported: a spec that starts
// before would pull.
func waitForImages(p hosts.T, h *hosts.Host, archives string) {
	files, err := filepath.Glob(filepath.Join(archives, "*.tar"))
	if err != nil || len(files) == 0 {
		p.Fatalf("find the image archives in %s: %v, %d files", archives, err, len(files))
	}
	hosts.Eventually(p, 10*time.Minute, "the import of all images", func() error {
		got := strings.Count(h.Run("skiff", "ctr", "-n", "k8s.io", "images", "ls", "-q"), "registry.k8s.io/")
		if got < len(files) {
			return fmt.Errorf("%d of %d are there", got, len(files))
		}
		return nil
	})
}
