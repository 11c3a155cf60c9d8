package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"skiff/pkg/agent/netpol/plan"
)

// needNFT puts nft, as the payload carries it, on the PATH.
func needNFT(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := filepath.Abs("../../../../build/payload")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft: run make build first")
	}
}

// town is a node with a bridge, pods on it, and a host outside, each in a
// network namespace of its own.
type town struct {
	t     testing.TB
	node  netns.NsHandle
	hosts map[string]netns.NsHandle
}

// enter moves this goroutine's thread into a new namespace until the test ends.
func enter(t testing.TB) netns.NsHandle {
	t.Helper()
	runtime.LockOSThread() // The thread ends with the goroutine.
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

func newTown(t testing.TB) *town {
	t.Helper()
	w := &town{t: t, node: enter(t), hosts: map[string]netns.NsHandle{}}
	w.must(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}))
	w.up("lo")
	w.up("cni0", "10.42.0.1/24", "fd00:42::1/64")
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"} {
		w.must(os.WriteFile("/proc/sys/"+name, []byte("1"), 0))
	}
	return w
}

func (w *town) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *town) up(name string, addresses ...string) {
	w.t.Helper()
	link, err := netlink.LinkByName(name)
	w.must(err)
	for _, a := range addresses {
		addr, err := netlink.ParseAddr(a)
		w.must(err)
		addr.Flags = unix.IFA_F_NODAD
		w.must(netlink.AddrAdd(link, addr))
	}
	w.must(netlink.LinkSetUp(link))
}

// add makes a host: a pod on the bridge, or outside if it has another gateway.
func (w *town) add(name string, gateways []string, addresses ...string) {
	w.t.Helper()
	ns, err := netns.New() // Which also enters it.
	w.must(err)
	w.t.Cleanup(func() { _ = ns.Close() })
	w.hosts[name] = ns
	w.must(netns.Set(w.node))
	w.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}))
	link, err := netlink.LinkByName(name)
	w.must(err)
	if strings.HasPrefix(addresses[0], "10.42.") {
		bridge, err := netlink.LinkByName("cni0")
		w.must(err)
		w.must(netlink.LinkSetMaster(link, bridge))
		w.up(name)
	} else {
		w.up(name, gateways[0]+"/24", gateways[1]+"/64")
	}
	w.in(name, func() {
		w.up("lo")
		w.up("eth0", addresses...)
		for _, g := range gateways {
			w.must(netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(g)}))
		}
	})
}

// in runs fn in the namespace of a host, "" is the node.
func (w *town) in(name string, fn func()) {
	w.t.Helper()
	if name != "" {
		w.must(netns.Set(w.hosts[name]))
		defer func() { w.must(netns.Set(w.node)) }()
	}
	fn()
}

// serve answers on a TCP port of a host.
func (w *town) serve(name string, port int) {
	w.in(name, func() {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		w.must(err)
		w.t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = c.Close()
			}
		}()
	})
}

// expect checks who reaches whom: "client web:80" or "client !web:80". All are
// tried at once, as what is dropped takes its time.
func (w *town) expect(what string, cases ...string) {
	w.t.Helper()
	addresses := map[string][]string{
		"web": {"10.42.0.2", "fd00:42::2"}, "client": {"10.42.0.3", "fd00:42::3"}, "other": {"10.42.0.4", "fd00:42::4"},
		"node": {"10.42.0.1", "fd00:42::1"}, "far": {"10.99.0.2", "fd00:99::2"},
	}
	var wg sync.WaitGroup
	for _, c := range cases {
		from, target, _ := strings.Cut(c, " ")
		target, refused := strings.CutPrefix(target, "!")
		to, port, _ := strings.Cut(target, ":")
		if from == "node" {
			from = ""
		}
		for _, ip := range addresses[to] {
			wg.Add(1)
			ready := make(chan struct{})
			go func() {
				defer wg.Done()
				runtime.LockOSThread()
				ns := w.node
				if from != "" {
					ns = w.hosts[from]
				}
				if err := netns.Set(ns); err != nil {
					w.t.Error(err)
				}
				close(ready)
				timeout, tries := time.Second, 10
				if refused {
					timeout, tries = 400*time.Millisecond, 1
				}
				// A new link, and with it its IPv6 address, is up only when the kernel
				// gets round to it: the first packets may be lost.
				conn, err := net.DialTimeout("tcp", net.JoinHostPort(ip, port), timeout)
				for ; err != nil && isTimeout(err) && tries > 1; tries-- {
					conn, err = net.DialTimeout("tcp", net.JoinHostPort(ip, port), timeout)
				}
				if err == nil {
					_ = conn.Close()
				}
				if (err != nil) != refused || refused && !isTimeout(err) {
					w.t.Errorf("%s: %s (%s): %v", what, c, ip, err)
				}
			}()
			<-ready
		}
	}
	wg.Wait()
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func pod(namespace, name string, local bool, ips ...string) *plan.Pod {
	p := &plan.Pod{Key: plan.Key{Namespace: namespace, Name: name}, UIDs: []string{name}, Labels: labels.Set{"app": name}, Local: local}
	for _, ip := range ips {
		p.IPs = append(p.IPs, netip.MustParseAddr(ip))
	}
	return p
}

func policy(t testing.TB, namespace, name, spec string) *networkingv1.NetworkPolicy {
	t.Helper()
	np := &networkingv1.NetworkPolicy{}
	np.Namespace, np.Name = namespace, name
	if err := yaml.UnmarshalStrict([]byte(spec), &np.Spec); err != nil {
		t.Fatal(err)
	}
	return np
}

// TestPackets programs policies and sends real packets between namespaces.
func TestPackets(t *testing.T) {
	needNFT(t)
	w := newTown(t)
	inside := []string{"10.42.0.1", "fd00:42::1"}
	w.add("web", inside, "10.42.0.2/24", "fd00:42::2/64")
	w.add("client", inside, "10.42.0.3/24", "fd00:42::3/64")
	w.add("other", inside, "10.42.0.4/24", "fd00:42::4/64")
	w.add("far", []string{"10.99.0.1", "fd00:99::1"}, "10.99.0.2/24", "fd00:99::2/64")
	for _, port := range []int{80, 81, 8005} {
		w.serve("web", port)
	}
	w.serve("far", 80)
	w.serve("", 53)
	w.expect("before", "client web:80", "other web:80", "far web:80", "node web:80", "web web:80", "web node:53", "web far:80")

	p := plan.New(plan.Base{IPv4: true, IPv6: true, Bridge: "cni0"})
	web := pod("a", "web", true, "10.42.0.2", "fd00:42::2")
	web.Ports = []plan.Port{{Name: "alt", Protocol: "tcp", Number: 81}}
	p.SetPod(web)
	p.SetPod(pod("a", "client", true, "10.42.0.3", "fd00:42::3"))
	p.SetPod(pod("a", "other", true, "10.42.0.4", "fd00:42::4"))
	p.SetPod(pod("kube-system", "dns", false, "10.42.0.1", "fd00:42::1"))
	var table Table
	set := func(name, spec string) {
		t.Helper()
		if err := p.SetPolicy(policy(t, "a", name, spec)); err != nil {
			t.Fatal(err)
		}
	}
	flush := func(c plan.Changes) {
		t.Helper()
		if err := table.Apply(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	set("deny", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress, Egress]}`)
	flush(p.All())
	w.expect("deny all", "client !web:80", "other !web:80", "far !web:80", "node web:80", "web web:80", "web !node:53", "web !far:80", "client far:80")

	set("some", `{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 80}, {port: 8000, endPort: 8010}]}, {from: [{ipBlock: {cidr: 10.99.0.0/16, except: [10.99.1.0/24]}}, {ipBlock: {cidr: "fd00:99::/32"}}], ports: [{port: alt}]}]}`)
	set("out", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: dns}}}]}]}`)
	flush(p.Flush())
	w.expect("some", "client web:80", "client web:8005", "client !web:81", "other !web:80", "far web:81", "far !web:80", "web node:53", "web !far:80")

	p.SetPod(pod("a", "client", true, "10.42.0.4", "fd00:42::4"))
	p.DeletePod(plan.Key{Namespace: "a", Name: "other"})
	flush(p.Flush())
	w.expect("addresses have changed", "client !web:80", "other web:80")

	flush(p.All()) // as after a restart
	w.expect("all again", "client !web:80", "other web:80", "far web:81")
	p.DeletePolicy(plan.Key{Namespace: "a", Name: "deny"})
	p.DeletePolicy(plan.Key{Namespace: "a", Name: "some"})
	flush(p.Flush())
	w.expect("egress only", "client web:80", "far web:80", "web node:53", "web !far:80")
	p.DeletePolicy(plan.Key{Namespace: "a", Name: "out"})
	flush(p.Flush())
	w.expect("no policy", "client web:80", "web far:80")
	if err := table.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("nft", "list", "tables").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("left: %s %v", out, err)
	}
}

// TestGuard deletes the table as a firewall's reload does.
func TestGuard(t *testing.T) {
	needNFT(t)
	enter(t)
	guard, err := NewGuard()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	deleted, ended := make(chan struct{}, 16), make(chan error, 1)
	go func() { ended <- guard.Run(ctx, func() { deleted <- struct{}{} }) }()
	var table Table
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("nft", args...).CombinedOutput(); err != nil {
			t.Fatalf("nft %v: %v %s", args, err, out)
		}
	}
	exists := func(want bool) {
		t.Helper()
		if got, err := table.Exists(t.Context()); err != nil || got != want {
			t.Errorf("the table exists: %t, %v; want %t", got, err, want)
		}
	}
	exists(false)
	p := plan.New(plan.Base{IPv4: true, Bridge: "cni0"})
	if err := table.Apply(t.Context(), p.All()); err != nil {
		t.Fatal(err)
	}
	exists(true)
	for range len(deleted) {
		<-deleted
	}
	run("add", "table", "inet", "other")
	run("delete", "table", "inet", "other")
	select {
	case <-deleted:
		t.Error("another table was taken for ours")
	case <-time.After(50 * time.Millisecond):
	}
	run("flush", "ruleset")
	select {
	case <-deleted:
	case <-time.After(5 * time.Second):
		t.Error("it was not noticed that the table is gone")
	}
	exists(false)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
