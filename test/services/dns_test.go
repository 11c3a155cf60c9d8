package services_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/agent/dns"
)

// resolver asks the name server under test.
type resolver struct {
	t    *testing.T
	addr netip.AddrPort
}

// ask returns the answer's code and records, without names and times.
func (r resolver) ask(network, name string, qtype uint16) (string, []string, error) {
	q := new(mdns.Msg)
	q.SetQuestion(name, qtype)
	c := mdns.Client{Net: network, Timeout: 3 * time.Second}
	a, _, err := c.ExchangeContext(r.t.Context(), q, r.addr.String())
	if err != nil {
		return "", nil, err
	}
	var out []string
	for _, rr := range a.Answer {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(out)
	return mdns.RcodeToString[a.Rcode], out, nil
}

func (r resolver) want(name string, qtype uint16, code string, want ...string) {
	r.t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		eventually(r.t, name+" "+mdns.TypeToString[qtype]+" over "+network, func() error {
			rcode, got, err := r.ask(network, name, qtype)
			if err != nil {
				return err
			}
			if rcode != code || !slices.Equal(got, want) {
				return fmt.Errorf("answer is %s %q, want %s %q", rcode, got, code, want)
			}
			return nil
		})
	}
}

func (c *cluster) testDNS(t *testing.T) {
	ctx := t.Context()
	c.dnsObjects(t)
	upstream := startUpstream(t)
	resolv := filepath.Join(c.dir, "resolv.conf")
	taken, err := net.Listen("tcp", podGateway+":10053")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	n := &notes{}
	o := dns.Options{
		NodeName: "n1", Kubeconfig: c.kubeconfig, Dir: filepath.Join(c.dir, "dns"), ClusterDomain: "cluster.local",
		ServiceIPs: []netip.Addr{netip.MustParseAddr("10.43.0.10")}, ResolvConf: resolv,
		Addresses: func(context.Context) ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr(podGateway)}, nil },
		Notes:     n, Logger: c.logger.With("component", "dns"),
	}
	server := dns.New(o)
	stop := start(t, server)
	r := resolver{t: t, addr: server.Listening()[0]}
	if r.addr.Port() == 10053 {
		t.Error("the port that is taken was chosen")
	}
	t.Run("records", func(t *testing.T) { resolver{t, r.addr}.records() })
	t.Run("resolvers", func(t *testing.T) {
		r := resolver{t, r.addr}
		r.want("host.example.net.", mdns.TypeA, "SERVFAIL")
		if err := os.WriteFile(resolv, []byte("nameserver "+upstream+"\nnameserver 10.43.0.10\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		r.want("host.example.net.", mdns.TypeA, "NOERROR", "192.0.2.77")
		r.want("outside.default.svc.cluster.local.", mdns.TypeA, "NOERROR", "192.0.2.77", "host.example.net.")
	})
	t.Run("endpoint", func(t *testing.T) { c.dnsEndpoint(t, r.addr) })
	t.Run("custom", func(t *testing.T) { c.dnsCustom(t, r, n) })
	t.Run("main", func(t *testing.T) { c.dnsMain(t, r) })
	stop()
	o.Disabled = true
	start(t, dns.New(o))
	eventually(t, "end of the EndpointSlice", func() error {
		_, err := c.kube.DiscoveryV1().EndpointSlices("kube-system").Get(ctx, "kube-dns-n1", get)
		return wantGone(err)
	})
}

// records asks for every kind of record of the DNS specification of Kubernetes
// (github.com/kubernetes/dns/blob/master/docs/specification.md).
func (r resolver) records() {
	r.t.Helper()
	r.want("kubernetes.default.svc.cluster.local.", mdns.TypeA, "NOERROR", "10.43.0.1")
	r.want("plain.default.svc.cluster.local.", mdns.TypeA, "NOERROR", "10.43.0.99")
	r.want("plain.default.svc.cluster.local.", mdns.TypeAAAA, "NOERROR")
	r.want("_web._tcp.plain.default.svc.cluster.local.", mdns.TypeSRV, "NOERROR", "0 100 80 plain.default.svc.cluster.local.")
	r.want("99.0.43.10.in-addr.arpa.", mdns.TypePTR, "NOERROR", "plain.default.svc.cluster.local.")
	r.want("headless.default.svc.cluster.local.", mdns.TypeA, "NOERROR", "10.42.0.7", "10.42.0.8")
	r.want("pod-a.headless.default.svc.cluster.local.", mdns.TypeA, "NOERROR", "10.42.0.7")
	r.want("7.0.42.10.in-addr.arpa.", mdns.TypePTR, "NOERROR", "pod-a.headless.default.svc.cluster.local.")
	r.want("10-42-0-7.default.pod.cluster.local.", mdns.TypeA, "NOERROR", "10.42.0.7")
	r.want("outside.default.svc.cluster.local.", mdns.TypeCNAME, "NOERROR", "host.example.net.")
	r.want("nobody.default.svc.cluster.local.", mdns.TypeA, "NXDOMAIN")
	r.want("dns-version.cluster.local.", mdns.TypeTXT, "NOERROR", `"1.1.0"`)
	r.want("n1.", mdns.TypeA, "NOERROR", "192.0.2.1")
}

func (c *cluster) dnsObjects(t *testing.T) {
	ctx := t.Context()
	node, err := c.kube.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, create)
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeHostName, Address: "n1"}}
	if _, err := c.kube.CoreV1().Nodes().UpdateStatus(ctx, node, change); err != nil {
		t.Fatal(err)
	}
	web := []corev1.ServicePort{{Name: "web", Port: 80, Protocol: corev1.ProtocolTCP}}
	for name, spec := range map[string]corev1.ServiceSpec{
		"plain":    {ClusterIP: "10.43.0.99", Ports: web},
		"headless": {ClusterIP: "None", Ports: web},
		"outside":  {Type: corev1.ServiceTypeExternalName, ExternalName: "host.example.net"},
	} {
		if _, err := c.kube.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, create); err != nil {
			t.Fatal(err)
		}
	}
	port, name, proto, host, ready := int32(80), "web", corev1.ProtocolTCP, "pod-a", true
	_, err = c.kube.DiscoveryV1().EndpointSlices("default").Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "headless-x", Labels: map[string]string{discoveryv1.LabelServiceName: "headless"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.42.0.7"}, Hostname: &host, Conditions: discoveryv1.EndpointConditions{Ready: &ready}},
			{Addresses: []string{"10.42.0.8"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}},
		},
	}, create)
	if err != nil {
		t.Fatal(err)
	}
}

// dnsEndpoint checks the EndpointSlice and that it comes back.
func (c *cluster) dnsEndpoint(t *testing.T, addr netip.AddrPort) {
	slices := c.kube.DiscoveryV1().EndpointSlices("kube-system")
	check := func() error {
		s, err := slices.Get(t.Context(), "kube-dns-n1", get)
		if err != nil {
			return err
		}
		if len(s.Endpoints) != 1 || s.Endpoints[0].Addresses[0] != addr.Addr().String() || *s.Endpoints[0].NodeName != "n1" ||
			len(s.Ports) != 2 || *s.Ports[0].Port != int32(addr.Port()) || s.OwnerReferences[0].Name != "n1" {
			return fmt.Errorf("it is %+v", s)
		}
		return nil
	}
	eventually(t, "EndpointSlice", check)
	if err := slices.Delete(t.Context(), "kube-dns-n1", remove); err != nil {
		t.Fatal(err)
	}
	eventually(t, "EndpointSlice that comes back", check)
}

// dnsCustom checks coredns-custom: it works, it may break, it may be repaired.
func (c *cluster) dnsCustom(t *testing.T, r resolver, n *notes) {
	r.t = t
	maps := c.kube.CoreV1().ConfigMaps("kube-system")
	m, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "coredns-custom"}, Data: map[string]string{
		"a.override": "rewrite name old.example.net host.example.net\n",
		"b.server":   "corp.example:53 {\n  hosts {\n    192.0.2.88 www.corp.example\n  }\n}\n",
	}}, create)
	if err != nil {
		t.Fatal(err)
	}
	r.want("old.example.net.", mdns.TypeA, "NOERROR", "192.0.2.77")
	r.want("www.corp.example.", mdns.TypeA, "NOERROR", "192.0.2.88")
	m.Data["c.override"] = "nonsense here\n"
	if m, err = maps.Update(t.Context(), m, change); err != nil {
		t.Fatal(err)
	}
	eventually(t, "note", func() error {
		if s := n.get("cluster-dns"); !strings.Contains(s, "nonsense") {
			return fmt.Errorf("note is %q", s)
		}
		return nil
	})
	r.want("www.corp.example.", mdns.TypeA, "NOERROR", "192.0.2.88")
	r.want("kubernetes.default.svc.cluster.local.", mdns.TypeA, "NOERROR", "10.43.0.1")
	c.wantEvent(t, "coredns-custom")
	delete(m.Data, "c.override")
	m.Data["b.server"] = strings.ReplaceAll(m.Data["b.server"], "88", "89")
	if _, err = maps.Update(t.Context(), m, change); err != nil {
		t.Fatal(err)
	}
	r.want("www.corp.example.", mdns.TypeA, "NOERROR", "192.0.2.89")
	if s := n.get("cluster-dns"); s != "" {
		t.Errorf("note stays: %s", s)
	}
}

// dnsMain checks the ConfigMap coredns with a whole Corefile and host names.
func (c *cluster) dnsMain(t *testing.T, r resolver) {
	r.t = t
	maps := c.kube.CoreV1().ConfigMaps("kube-system")
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "coredns"}, Data: map[string]string{
		"NodeHosts": "192.0.2.60 other.example\n",
		"Corefile":  ".:53 {\n  errors\n  health\n  ready\n  loop\n  reload\n  prometheus :9153\n  kubernetes cluster.local {\n    pods insecure\n  }\n  hosts /etc/coredns/NodeHosts {\n    fallthrough\n  }\n  forward . /etc/resolv.conf\n}\n",
	}}
	if _, err := maps.Create(t.Context(), m, create); err != nil {
		t.Fatal(err)
	}
	r.want("other.example.", mdns.TypeA, "NOERROR", "192.0.2.60")
	r.want("old.example.net.", mdns.TypeA, "NXDOMAIN") // It imports nothing custom.
	r.want("kubernetes.default.svc.cluster.local.", mdns.TypeA, "NOERROR", "10.43.0.1")
	for _, port := range []string{"8080", "8181", "9153"} {
		if conn, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			conn.Close()
			t.Errorf("port %s of the host is open", port)
		}
	}
	if err := maps.Delete(t.Context(), "coredns", remove); err != nil {
		t.Fatal(err)
	}
	r.want("old.example.net.", mdns.TypeA, "NOERROR", "192.0.2.77")
}

func (c *cluster) wantEvent(t *testing.T, configMap string) {
	t.Helper()
	eventually(t, "event on ConfigMap "+configMap, func() error {
		l, err := c.kube.CoreV1().Events("kube-system").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range l.Items {
			if e.InvolvedObject.Kind == "ConfigMap" && e.InvolvedObject.Name == configMap {
				return nil
			}
		}
		return errors.New("none")
	})
}

// startUpstream answers for host.example.net on a loopback address, port 53, in
// the network namespace of the test.
func startUpstream(t *testing.T) string {
	const addr = "127.0.0.10"
	pc, err := net.ListenPacket("udp", addr+":53")
	if err != nil {
		t.Fatal(err)
	}
	answer := mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		a := new(mdns.Msg)
		a.SetReply(q)
		if q.Question[0].Name != "host.example.net." {
			a.Rcode = mdns.RcodeNameError
		} else if q.Question[0].Qtype == mdns.TypeA {
			rr, err := mdns.NewRR("host.example.net. 5 IN A 192.0.2.77")
			if err != nil {
				t.Error(err)
			}
			a.Answer = append(a.Answer, rr)
		}
		if err := w.WriteMsg(a); err != nil {
			t.Log(err)
		}
	})
	l, err := net.Listen("tcp", addr+":53")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*mdns.Server{{PacketConn: pc, Handler: answer}, {Listener: l, Handler: answer}} {
		go func() {
			if err := s.ActivateAndServe(); err != nil && t.Context().Err() == nil {
				t.Log(err)
			}
		}()
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return addr
}
