package hosts

import (
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// kubeconfig is where skiff writes the administrator's kubeconfig.
const kubeconfig = "/etc/skiff/skiff.yaml"

// RESTConfig is the administrator's access to the server on this host, usable
// from the test process: connections are made inside the host.
func (h *Host) RESTConfig() *rest.Config {
	h.t.Helper()
	c, err := clientcmd.RESTConfigFromKubeConfig([]byte(h.ReadFile(kubeconfig)))
	if err != nil {
		h.t.Fatalf("read kubeconfig of %s: %v", h.name, err)
	}
	c.Dial = h.DialContext
	c.QPS = -1 // no limit: tests poll
	c.Timeout = 30 * time.Second
	return c
}

// Kube is a client of the server on this host.
func (h *Host) Kube() *kubernetes.Clientset {
	h.t.Helper()
	c, err := kubernetes.NewForConfig(h.RESTConfig())
	if err != nil {
		h.t.Fatalf("make client for %s: %v", h.name, err)
	}
	return c
}
