package netpol

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff/pkg/agent/netpol/plan"
	"skiff/pkg/paths"
)

func TestPod(t *testing.T) {
	e := &Enforcer{NodeName: "here"}
	in := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web", UID: "u", Labels: map[string]string{"app": "web"},
			Annotations: map[string]string{"kubernetes.io/config.hash": "static"},
		},
		Spec: corev1.PodSpec{
			NodeName: "here",
			Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
				{Name: "http", ContainerPort: 80}, {ContainerPort: 81}, {Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP},
			}}},
			InitContainers: []corev1.Container{
				{Ports: []corev1.ContainerPort{{Name: "gone", ContainerPort: 1}}},
				{RestartPolicy: new(corev1.ContainerRestartPolicyAlways), Ports: []corev1.ContainerPort{{Name: "mesh", ContainerPort: 2}}},
			},
		},
		Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.42.0.2"}, {IP: "fd00::2"}}},
	}
	want := &plan.Pod{
		Key: plan.Key{Namespace: "shop", Name: "web"}, UIDs: []string{"u", "static"}, Labels: labels.Set{"app": "web"}, Local: true,
		IPs:   []netip.Addr{netip.MustParseAddr("10.42.0.2"), netip.MustParseAddr("fd00::2")},
		Ports: []plan.Port{{Name: "http", Protocol: "tcp", Number: 80}, {Name: "dns", Protocol: "udp", Number: 53}, {Name: "mesh", Protocol: "tcp", Number: 2}},
	}
	addrs := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff(want, e.pod(in), addrs); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}

	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-dns-here", UID: "s"},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.42.0.1"}},
			{Addresses: []string{"10.42.0.9"}, TargetRef: &corev1.ObjectReference{Kind: "Pod"}},
		},
		Ports: []discoveryv1.EndpointPort{{Name: new("dns"), Port: new(int32(10053)), Protocol: new(corev1.ProtocolUDP)}},
	}
	ip := netip.MustParseAddr("10.42.0.1")
	want = &plan.Pod{
		Key: plan.Key{Namespace: "kube-system", Name: "address/10.42.0.1"}, UIDs: []string{"10.42.0.1"}, Labels: labels.Set{"k8s-app": "kube-dns"},
		IPs:   []netip.Addr{ip},
		Ports: []plan.Port{{Name: "dns", Protocol: "udp", Number: 10053}, {Name: plan.PortDNS, Protocol: "udp", Number: 10053}},
	}
	there := &standIns{slices: map[plan.Key]*discoveryv1.EndpointSlice{}}
	dns, web := plan.Key{Namespace: "kube-system", Name: "kube-dns-here"}, plan.Key{Namespace: "kube-system", Name: "web"}
	check := func(what string, got map[netip.Addr]*plan.Pod, pod *plan.Pod) {
		t.Helper()
		if diff := cmp.Diff(map[netip.Addr]*plan.Pod{ip: pod}, got, addrs); diff != "" {
			t.Errorf("%s -want +got\n%s", what, diff)
		}
	}
	check("DNS", there.change(dns, slice), want)
	ingress := &discoveryv1.EndpointSlice{Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.42.0.1"}}}}
	ingress.Name, ingress.Labels = "web", map[string]string{discoveryv1.LabelManagedBy: ingressManager}
	both := *want
	both.Labels = labels.Set{"k8s-app": "kube-dns", "app.kubernetes.io/name": "skiff-ingress"}
	check("DNS and ingress", there.change(web, ingress), &both)
	check("ingress gone", there.change(web, nil), want)
	check("all gone", there.change(dns, nil), nil)
}

func TestFeed(t *testing.T) {
	var got []string
	f := &feed{known: map[plan.Key]struct{}{}, synced: make(chan struct{})}
	f.set = func(obj any) { got = append(got, "set "+obj.(*corev1.Pod).Name) }
	f.drop = func(k plan.Key) { got = append(got, "drop "+k.Name) }
	pod := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name}}
	}
	steps := []func() error{
		func() error { return f.Replace([]any{pod("a"), pod("b")}, "1") },
		func() error { return f.Add(pod("c")) },
		func() error { return f.Delete(pod("a")) },
		func() error { return f.Replace([]any{pod("c")}, "2") },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"set a", "set b", "set c", "drop a", "set c", "drop b"}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	select {
	case <-f.synced:
	default:
		t.Error("not synced")
	}
	if f.Add("nonsense") == nil {
		t.Error("a string was taken for an object")
	}
}

// newEnforcer has listed no policies, and has its files below a directory of
// its own.
func newEnforcer(t *testing.T) *Enforcer {
	t.Helper()
	e := &Enforcer{
		Layout: paths.New(t.TempDir()), PodCIDR: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Logger: slog.New(slog.DiscardHandler),
		policies: map[plan.Key]*networkingv1.NetworkPolicy{}, claims: claims{},
	}
	e.Layout.Run = t.TempDir()
	return e
}

// ask is what the CNI plug-in does.
func ask(t *testing.T, socket string, r Request) string {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer conn.Close()
	var a Answer
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		t.Error(err)
	}
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		t.Error(err)
	}
	return a.Error
}

func TestGate(t *testing.T) {
	e := newEnforcer(t)
	l, err := listenGate(e.Layout.NetworkPolicySocket())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan struct{})
	go func() { defer close(served); e.serveGate(ctx, l) }()
	defer func() { cancel(); _ = l.Close(); <-served }()

	begin := func(r Request) <-chan string {
		answer := make(chan string, 1)
		go func() { answer <- ask(t, e.Layout.NetworkPolicySocket(), r) }()
		return answer
	}
	waits := func(what string, answer <-chan string) {
		t.Helper()
		select {
		case a := <-answer:
			t.Errorf("%s: the pod does not wait: %q", what, a)
		case <-time.After(50 * time.Millisecond):
		}
	}
	goes := func(what string, answer <-chan string) {
		t.Helper()
		select {
		case a := <-answer:
			if a != "" {
				t.Errorf("%s: %s", what, a)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: the pod still waits", what)
		}
	}
	request := func(name, ip string) Request {
		return Request{Namespace: "shop", Name: name, UID: "uid-" + name, Sandbox: "box-" + name, IPs: []netip.Addr{netip.MustParseAddr(ip)}}
	}
	state := func(fn func()) {
		e.mu.Lock()
		defer e.mu.Unlock()
		fn()
		e.notify()
	}

	first := begin(request("a", "192.0.2.10"))
	waits("policies not known", first)
	state(func() { e.listed = true })
	goes("no policies", first)

	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p"}}
	np.Spec.PodSelector.MatchLabels = map[string]string{"app": "b"}
	e.setPolicy(np)
	second := begin(request("b", "192.0.2.11"))
	waits("pods not known", second)
	s := e.open()
	s.planner.SetPod(&plan.Pod{Key: plan.Key{Namespace: "shop", Name: "b"}, UIDs: []string{"uid-b"}, Labels: labels.Set{"app": "b"}, Local: true})
	s.planner.SetPod(&plan.Pod{Key: plan.Key{Namespace: "shop", Name: "c"}, UIDs: []string{"uid-c"}, Labels: labels.Set{"app": "c"}, Local: true})
	state(func() { s.synced = true })
	waits("not programmed", second)
	goes("not selected", begin(request("c", "192.0.2.12")))
	state(func() { s.done = s.wanted })
	goes("programmed", second)

	goes("it is released", begin(Request{Sandbox: "box-c"}))
	if !e.waitFor(ctx, func() bool { return len(e.claims) == 2 }) {
		t.Error("the claim stays")
	}
	again, err := loadClaims(e.Layout.NetworkPolicyClaims())
	if err != nil || len(again) != 2 || again[netip.MustParseAddr("192.0.2.11")].UID != "uid-b" {
		t.Errorf("claims after a restart: %v %v", again, err)
	}
}

func TestGateGivesUp(t *testing.T) {
	e := newEnforcer(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := e.admit(ctx, Request{Namespace: "shop", Name: "a"})
	if err == nil || !strings.Contains(err.Error(), "shop/a are not known") {
		t.Errorf("error %v", err)
	}
}

func TestClaimsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "claims")
	if c, err := loadClaims(file); err != nil || len(c) != 0 {
		t.Errorf("no file: %v %v", c, err)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := loadClaims(file); err == nil || c == nil {
		t.Errorf("a broken file: %v %v", c, err)
	}
}
