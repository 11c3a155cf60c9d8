package main

import (
	"errors"
	"fmt"
	"net/http"
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
