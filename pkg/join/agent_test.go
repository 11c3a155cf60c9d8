package join

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What is on disk is good for a start whatever the clock and the node's address
// are, and points to where the API is now.
func TestStored(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	if b, why := c.Stored(n1); b != nil || why != "this node has not joined before" {
		t.Errorf("before joining: %v, %q", b, why)
	}
	w.mustJoin(c, n1)
	c.Transport, c.APIServer = down{}, "https://127.0.0.1:7000"
	w.now = w.now.AddDate(5, 0, 0)
	moved := n1
	moved.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.77")}
	b, why := c.Stored(moved)
	if b == nil {
		t.Fatalf("nothing usable: %s", why)
	}
	if !b.Cluster.Same(cluster) {
		t.Errorf("cluster: %+v", b.Cluster)
	}
	text, err := os.ReadFile(b.Kubeconfig("kubelet"))
	if err != nil || !strings.Contains(string(text), "https://127.0.0.1:7000") {
		t.Errorf("kubeconfig: %v\n%s", err, text)
	}
	if b, why := c.Stored(n2); b != nil || !strings.Contains(why, `as node "n1"`) {
		t.Errorf("another node: %v, %q", b, why)
	}
	if err := os.Remove(c.TLSDir + "/client-kubelet.key"); err != nil {
		t.Fatal(err)
	}
	if b, why := c.Stored(n1); b != nil || why != "client-kubelet: of another key" {
		t.Errorf("without its key: %v, %q", b, why)
	}
}

// A node proves whom it talks to by the authority, not by the name under which
// it reaches the server.
func TestAnyAddressOfTheServer(t *testing.T) {
	w := newWorld(t)
	c := w.remote()
	at := strings.TrimPrefix(c.URL, "https://")
	c.URL = "https://servers.example:443"
	c.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, at)
	}
	w.mustJoin(c, n1)
}

// A Member that has what it needs is ready before any server is, and tells when
// the cluster's settings are others.
func TestMemberFromDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.client()
		w.mustJoin(c, n1)
		up := c.Transport
		c.Transport = down{}
		told := make(chan Cluster, 9)
		m := &Member{Client: c, Node: n1, FromDisk: true, Changed: func(b *Bundle) { told <- b.Cluster }, Logger: quiet}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		synctest.Wait()
		if err := m.Ready(ctx); err != nil {
			t.Errorf("not ready: %v", err)
		}
		time.Sleep(10 * time.Minute)
		c.mu.Lock()
		c.Transport = up
		c.mu.Unlock()
		time.Sleep(retryMax)
		synctest.Wait()
		if len(told) != 0 {
			t.Errorf("told %d times that nothing has changed", len(told))
		}

		other := cluster
		other.Disable = []string{"coredns"}
		w.join.Cluster = func() Cluster { return other }
		m.Ask()
		m.Ask()
		before := w.calls
		time.Sleep(askSpread)
		synctest.Wait()
		if len(told) != 1 || !cmp.Equal((<-told).Disable, other.Disable) {
			t.Error("not told of the other settings")
		}
		if asked := w.calls - before; asked != 1 {
			t.Errorf("the server was asked %d times", asked)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestSame(t *testing.T) {
	change := map[string]func(*Cluster){
		"PodCIDR":        func(c *Cluster) { c.PodCIDR = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")} },
		"ServiceCIDR":    func(c *Cluster) { c.ServiceCIDR = nil },
		"DNS":            func(c *Cluster) { c.DNS = nil },
		"Domain":         func(c *Cluster) { c.Domain = "other.local" },
		"FlannelBackend": func(c *Cluster) { c.FlannelBackend = "host-gw" },
		"Disable":        func(c *Cluster) { c.Disable = []string{"ingress"} },
	}
	for name, f := range change {
		other := cluster
		f(&other)
		if cluster.Same(other) {
			t.Errorf("another %s makes no difference", name)
		}
	}
	other := cluster
	other.Servers = []string{"192.0.2.1:6443"}
	if !cluster.Same(other) {
		t.Error("another list of servers makes a difference")
	}
}
