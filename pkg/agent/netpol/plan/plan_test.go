package plan

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

func testBase() Base { return Base{IPv4: true, Bridge: "cni0"} }

func readPolicy(t testing.TB, name, spec string) *networkingv1.NetworkPolicy {
	t.Helper()
	np := &networkingv1.NetworkPolicy{}
	if err := yaml.UnmarshalStrict([]byte(spec), &np.Spec); err != nil {
		t.Fatal(err)
	}
	np.Namespace, np.Name = "shop", name
	return np
}

func testPod(name, app, ip string) *Pod {
	p := &Pod{Key: Key{"shop", name}, UIDs: []string{"uid-" + name}, Labels: labels.Set{"app": app}, Local: true}
	if ip != "" {
		p.IPs = []netip.Addr{netip.MustParseAddr(ip)}
	}
	return p
}

// town is a small cluster: two pods of ours, one of another namespace and one
// of another node.
func town(b Base) *Planner {
	p := New(b)
	p.SetNamespace("shop", labels.Set{"team": "shop"})
	p.SetNamespace("bank", labels.Set{"team": "bank"})
	web := testPod("web", "web", "10.42.0.2")
	web.Ports = []Port{{"http", "tcp", 8080}, {"dns", "udp", 5353}}
	p.SetPod(web)
	p.SetPod(testPod("db", "db", "10.42.0.3"))
	teller := testPod("teller", "web", "10.42.0.4")
	teller.Namespace = "bank"
	teller.Ports = []Port{{"http", "tcp", 9090}}
	p.SetPod(teller)
	p.SetPod(&Pod{
		Key: Key{"kube-system", "dns/"}, Labels: labels.Set{"k8s-app": "kube-dns"}, IPs: []netip.Addr{netip.MustParseAddr("10.42.0.1")},
		Ports: []Port{{PortDNS, "tcp", 10053}, {PortDNS, "udp", 10053}},
	})
	far := testPod("far", "db", "10.42.1.2")
	far.Local = false
	p.SetPod(far)
	return p
}

func TestPolicies(t *testing.T) {
	tests := []struct {
		name, spec      string
		ingress, egress []string // of web
	}{
		{"deny all", `{podSelector: {}, policyTypes: [Ingress, Egress]}`, []string{}, []string{}},
		{"types default to ingress", `{podSelector: {}}`, []string{}, nil},
		{"types default to both", `{podSelector: {}, egress: [{}]}`, []string{}, []string{"accept"}},
		{"egress only", `{podSelector: {}, policyTypes: [Egress], egress: [{}]}`, nil, []string{"accept"}},
		{"other pods", `{podSelector: {matchLabels: {app: db}}}`, nil, nil},
		{"everybody", `{podSelector: {}, ingress: [{}]}`, []string{"accept"}, nil},
		{"pods", `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: db}}}]}]}`, []string{"ip saddr (10.42.0.3 10.42.1.2) accept"}, nil},
		{"namespaces", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: bank}}}]}]}`, []string{"ip saddr (10.42.0.4) accept"}, nil},
		{"all namespaces", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}`, []string{"ip saddr (10.42.0.1 10.42.0.2 10.42.0.3 10.42.0.4 10.42.1.2) accept"}, nil},
		{
			"pods of namespaces", `{podSelector: {}, egress: [{to: [{namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [bank, shop]}]}, podSelector: {matchLabels: {app: web}}}]}], policyTypes: [Egress]}`,
			nil,
			[]string{"ip daddr (10.42.0.2 10.42.0.4) accept"},
		},
		{
			"either of two peers", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: bank}}}, {podSelector: {matchLabels: {app: db}}}]}]}`,
			[]string{"ip saddr (10.42.0.4) accept", "ip saddr (10.42.0.3 10.42.1.2) accept"},
			nil,
		},
		{"nobody matches", `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: none}}}]}]}`, []string{"ip saddr () accept"}, nil},
		{
			"ports", `{podSelector: {}, ingress: [{ports: [{port: 80}, {port: 81}, {port: 8000, endPort: 8010}, {port: 8005, endPort: 9000, protocol: TCP}, {port: 53, protocol: UDP}, {protocol: SCTP}]}]}`,
			[]string{"tcp dport { 80-81, 8000-9000 } accept", "udp dport { 53 } accept", "meta l4proto sctp accept"},
			nil,
		},
		{"named port", `{podSelector: {}, ingress: [{ports: [{port: http}]}]}`, []string{"ip daddr . tcp dport (10.42.0.2:8080) accept"}, nil},
		{"named port of another protocol", `{podSelector: {}, ingress: [{ports: [{port: dns}, {port: dns, protocol: UDP}]}]}`, []string{"ip daddr . tcp dport () accept", "ip daddr . udp dport (10.42.0.2:5353) accept"}, nil},
		{
			"named port of peers", `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: http}], to: [{namespaceSelector: {matchLabels: {team: bank}}}]}]}`,
			nil,
			[]string{"ip daddr (10.42.0.4) ip daddr . tcp dport (10.42.0.2:8080 10.42.0.4:9090) accept"},
		},
		{
			"blocks", `{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.2.0/24, 10.1.0.0/16, 10.9.9.9/32]}}, {ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: "2001:db8::/32"}}], ports: [{port: 443}]}], policyTypes: [Egress]}`,
			nil,
			[]string{"ip daddr 10.0.0.0/8 ip daddr != { 10.1.0.0/16, 10.9.9.9/32 } tcp dport { 443 } accept", "meta nfproto ipv4 tcp dport { 443 } accept"},
		},
		{
			"DNS", `{podSelector: {}, egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}, {port: 50, endPort: 60}]}], policyTypes: [Egress]}`,
			nil,
			[]string{
				"ip daddr (10.42.0.1) tcp dport { 50-60 } accept", "ip daddr (10.42.0.1) ip daddr . tcp dport (10.42.0.1:10053) accept",
				"ip daddr (10.42.0.1) udp dport { 53 } accept", "ip daddr (10.42.0.1) ip daddr . udp dport (10.42.0.1:10053) accept",
			},
		},
		{"host bits", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/16}}]}]}`, []string{"ip saddr 10.1.0.0/16 accept"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, k := town(testBase()), newImage(t)
			if err := p.SetPolicy(readPolicy(t, "p", tt.spec)); err != nil {
				t.Fatal(err)
			}
			k.apply(p.All())
			if diff := cmp.Diff(tt.ingress, k.accepts(ingress, "10.42.0.2")); diff != "" {
				t.Errorf("ingress -want +got\n%s", diff)
			}
			if diff := cmp.Diff(tt.egress, k.accepts(egress, "10.42.0.2")); diff != "" {
				t.Errorf("egress -want +got\n%s", diff)
			}
			for _, other := range []string{"10.42.0.4", "10.42.1.2"} { // another namespace, another node
				if k.accepts(ingress, other) != nil || k.accepts(egress, other) != nil {
					t.Errorf("%s is isolated", other)
				}
			}
		})
	}
}

func TestFamilies(t *testing.T) {
	p, k := town(Base{IPv4: true, IPv6: true, Bridge: "cni0"}), newImage(t)
	both := testPod("both", "both", "10.42.0.9")
	both.IPs = append(both.IPs, netip.MustParseAddr("fd00::9"))
	both.Ports = []Port{{"http", "tcp", 80}}
	p.SetPod(both)
	if err := p.SetPolicy(readPolicy(t, "p", `{podSelector: {matchLabels: {app: both}}, ingress: [{from: [{podSelector: {matchLabels: {app: both}}}, {ipBlock: {cidr: "::/0", except: ["2001:db8::/32"]}}], ports: [{port: http}]}]}`)); err != nil {
		t.Fatal(err)
	}
	k.apply(p.All())
	want := []string{
		"ip saddr (10.42.0.9) ip daddr . tcp dport (10.42.0.2:8080 10.42.0.9:80) accept",
		"ip6 saddr (fd00::9) ip6 daddr . tcp dport (fd00::9:80) accept",
		"meta nfproto ipv6 ip6 saddr != { 2001:db8::/32 } ip6 daddr . tcp dport (fd00::9:80) accept",
	}
	for _, ip := range []string{"10.42.0.9", "fd00::9"} {
		if diff := cmp.Diff(want, k.accepts(ingress, ip)); diff != "" {
			t.Errorf("%s -want +got\n%s", ip, diff)
		}
	}
}

// TestNonsense checks that what cannot be read allows nothing, and isolates.
func TestNonsense(t *testing.T) {
	p, k := town(testBase()), newImage(t)
	err := p.SetPolicy(readPolicy(t, "p", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: nonsense}}], ports: [{port: 80}]}, {ports: [{port: 9, endPort: 8}]}, {ports: [{port: 7, protocol: ICMP}]}]}`))
	for _, want := range []string{"nonsense", "9-8", "ICMP"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
	k.apply(p.All())
	if diff := cmp.Diff([]string{}, k.accepts(ingress, "10.42.0.2")); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestIncremental(t *testing.T) {
	p, k := town(testBase()), newImage(t)
	if err := p.SetPolicy(readPolicy(t, "p", `{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: db}}}]}]}`)); err != nil {
		t.Fatal(err)
	}
	k.apply(p.All())
	p.SetPod(testPod("db2", "db", "10.42.0.20"))
	c := p.Flush()
	k.apply(c)
	name := selectorName(peerSelector{namespace: "shop", pods: labels.SelectorFromSet(labels.Set{"app": "db"})}) + "-4"
	if diff := cmp.Diff(Changes{Add: []Element{{Set: name, Key: "10.42.0.20"}}}, c); diff != "" {
		t.Errorf("a peer more (-want +got)\n%s", diff)
	}
	same := testPod("db2", "db", "10.42.0.20")
	p.SetPod(same)
	if c := p.Flush(); !c.Empty() {
		t.Errorf("nothing has changed, but %+v", c)
	}
	p.SetPod(testPod("web2", "web", "10.42.0.21"))
	if c = p.Flush(); len(c.Chains)+len(c.Sets)+len(c.Delete) > 0 || len(c.Add) != 2 {
		t.Errorf("a pod more that is isolated as another: %+v", c)
	}
	k.apply(c)
	p.DeletePod(Key{"shop", "web2"})
	if c = p.Flush(); len(c.Delete) != 2 || len(c.Add)+len(c.Chains)+len(c.DropChains) > 0 {
		t.Errorf("it is gone: %+v", c)
	}
	k.apply(c)
	p.DeletePolicy(Key{"shop", "p"})
	k.apply(p.Flush())
	empty := newImage(t)
	empty.apply(town(testBase()).All())
	if diff := cmp.Diff(empty.sets, k.sets); diff != "" {
		t.Errorf("left in sets\n%s", diff)
	}
	if diff := cmp.Diff(empty.chains, k.chains); diff != "" {
		t.Errorf("left in chains\n%s", diff)
	}
}

func TestClaims(t *testing.T) {
	ip := netip.MustParseAddr("10.42.0.2")
	claim := func(name string) Claim {
		return Claim{Pod: Key{"shop", name}, UID: "uid-" + name, Sandbox: "box-" + name}
	}
	p, k := town(testBase()), newImage(t)
	if !p.Claim(claim("new"), netip.MustParseAddr("10.42.0.50")) {
		t.Error("a pod of a namespace without policies waits")
	}
	if err := p.SetPolicy(readPolicy(t, "p", `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`)); err != nil {
		t.Fatal(err)
	}
	k.apply(p.All())
	check := func(what, ip string, want []string) {
		t.Helper()
		if diff := cmp.Diff(want, k.accepts(ingress, ip)); diff != "" {
			t.Errorf("%s -want +got\n%s", what, diff)
		}
	}
	check("pod not known yet", "10.42.0.50", []string{"cut off"})
	check("peers", "10.42.0.3", []string{"ip saddr (10.42.0.2) accept"})

	// The address of web is given to another, before web is known to be gone.
	if p.Claim(claim("thief"), ip) {
		t.Error("a pod that is not known does not wait")
	}
	k.apply(p.Flush())
	check("address used again", "10.42.0.2", []string{"cut off"})
	check("its peers", "10.42.0.3", []string{"ip saddr () accept"})
	p.SetPod(testPod("thief", "db", ""))
	if p.Claim(claim("thief"), ip) {
		t.Error("a pod that is isolated does not wait")
	}
	k.apply(p.Flush())
	check("now it is known", "10.42.0.2", []string{"ip saddr () accept"})
	p.SetPod(testPod("thief", "other", ""))
	if !p.Claim(claim("thief"), ip) {
		t.Error("a pod that is not isolated waits")
	}
	k.apply(p.Flush())
	check("free", "10.42.0.2", nil)

	p.Release("box-new")
	k.apply(p.Flush())
	check("released", "10.42.0.50", nil)
	p.SetPod(testPod("thief", "db", ""))
	p.DeletePod(Key{"shop", "thief"})
	k.apply(p.Flush())
	check("gone from the API only", "10.42.0.2", []string{"ip saddr () accept"})
	p.Release("box-other")
	p.Release("box-thief")
	k.apply(p.Flush())
	check("web has it again", "10.42.0.3", []string{"ip saddr (10.42.0.2) accept"})
	check("web is not isolated", "10.42.0.2", nil)

	// A pod of the same name takes the place of one whose containers still run.
	p.SetPod(testPod("set-0", "db", ""))
	p.Claim(claim("set-0"), netip.MustParseAddr("10.42.0.60"))
	p.DeletePod(Key{"shop", "set-0"})
	next := testPod("set-0", "db", "")
	next.UIDs = []string{"another"}
	p.SetPod(next)
	k.apply(p.Flush())
	check("the place is taken", "10.42.0.60", []string{"cut off"})
	p.Release("box-set-0")
	k.apply(p.Flush())
	check("and free at last", "10.42.0.60", nil)
}

// TestConverges makes many changes in any order, and compares with a plan that
// learnt the end only.
func TestConverges(t *testing.T) {
	specs := []string{
		`{podSelector: {}, policyTypes: [Ingress, Egress]}`,
		`{podSelector: {matchLabels: {app: a1}}, ingress: [{from: [{podSelector: {matchLabels: {app: a2}}}], ports: [{port: http}]}]}`,
		`{podSelector: {matchLabels: {app: a2}}, egress: [{to: [{namespaceSelector: {matchLabels: {team: shop}}}], ports: [{port: http}]}]}`,
		`{podSelector: {matchLabels: {app: a1}}, egress: [{to: [{podSelector: {matchLabels: {app: a2}}}]}]}`,
	}
	seed := uint64(1)
	next := func(n int) int {
		seed = seed*6364136223846793005 + 1442695040888963407
		return int(seed>>33) % n
	}
	p, k := New(testBase()), newImage(t)
	k.apply(p.All())
	pods, policies := map[string]*Pod{}, map[string]*networkingv1.NetworkPolicy{}
	for range 3000 {
		switch name := fmt.Sprint("n", next(12)); next(5) {
		case 0, 1:
			pod := testPod(name, fmt.Sprint("a", next(4)), fmt.Sprintf("10.42.0.%d", 2+next(30)))
			pod.Local, pod.Created = next(4) > 0, time.Unix(int64(next(9)), 0)
			pod.Ports = []Port{{"http", "tcp", int32(80 + next(3))}}
			p.SetPod(pod)
			pods[name] = pod
		case 2:
			p.DeletePod(Key{"shop", name})
			delete(pods, name)
		case 3:
			np := readPolicy(t, name, specs[next(len(specs))])
			if err := p.SetPolicy(np); err != nil {
				t.Fatal(err)
			}
			policies[name] = np
		case 4:
			p.DeletePolicy(Key{"shop", name})
			delete(policies, name)
		}
		if next(3) == 0 {
			k.apply(p.Flush())
		}
	}
	k.apply(p.Flush())
	fresh, want := New(testBase()), newImage(t)
	for _, pod := range pods {
		fresh.SetPod(pod)
	}
	for _, np := range policies {
		if err := fresh.SetPolicy(np); err != nil {
			t.Fatal(err)
		}
	}
	want.apply(fresh.All())
	if diff := cmp.Diff(want.sets, k.sets); diff != "" {
		t.Errorf("sets -want +got\n%s", diff)
	}
	if diff := cmp.Diff(want.chains, k.chains); diff != "" {
		t.Errorf("chains -want +got\n%s", diff)
	}
}
