package servicelb

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func node(name string, labels map[string]string, addrs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	for _, a := range addrs {
		kind := corev1.NodeInternalIP
		if rest, ok := strings.CutPrefix(a, "ext:"); ok {
			kind, a = corev1.NodeExternalIP, rest
		}
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: kind, Address: a})
	}
	return n
}

// service wants the TCP ports; age orders Services, the highest is the oldest.
func service(name string, age int, change func(*corev1.Service), wanted ...int32) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(int64(1000-age), 0))}}
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	for _, p := range wanted {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: p, Protocol: corev1.ProtocolTCP})
	}
	if change != nil {
		change(s)
	}
	return s
}

func TestPlan(t *testing.T) {
	a, b := node("a", nil, "10.0.0.1", "fd00::1"), node("b", nil, "10.0.0.2")
	notReady := node("c", nil, "10.0.0.3")
	notReady.Status.Conditions[0].Status = corev1.ConditionUnknown
	local := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	v4 := func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol} }
	pool := func(s *corev1.Service) { s.Labels = map[string]string{labelPool: "east"} }
	held := func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.0.0.1"}}
	}
	ssh := func(name string, _ corev1.Protocol, addr netip.AddrPort) error {
		if name == "a" && addr.Port() == 22 {
			return errors.New("in use by process 7 (sshd)")
		}
		return nil
	}
	for _, c := range []struct {
		name  string
		state state
		want  []string
	}{
		{
			"all ready nodes",
			state{nodes: []*corev1.Node{b, a, notReady}, services: []*corev1.Service{service("s", 1, nil, 80)}},
			[]string{"s 10.0.0.1,10.0.0.2,fd00::1"},
		},
		{"the Service's families", state{nodes: []*corev1.Node{a}, services: []*corev1.Service{service("s", 1, v4, 80)}}, []string{"s 10.0.0.1"}},
		{
			"external addresses come first",
			state{nodes: []*corev1.Node{node("x", nil, "10.0.0.9", "ext:192.0.2.9")}, services: []*corev1.Service{service("s", 1, nil, 80)}},
			[]string{"s 192.0.2.9"},
		},
		{"only enabled nodes", state{
			nodes:    []*corev1.Node{a, node("on", map[string]string{labelEnable: "true"}, "10.0.0.5")},
			services: []*corev1.Service{service("s", 1, nil, 80)},
		}, []string{"s 10.0.0.5"}},
		{"a node that is switched off or excluded", state{
			nodes: []*corev1.Node{
				a, node("off", map[string]string{labelEnable: "false"}, "10.0.0.6"), node("ex", map[string]string{corev1.LabelNodeExcludeBalancers: ""}, "10.0.0.7"),
			},
			services: []*corev1.Service{service("s", 1, v4, 80)},
		}, []string{"s 10.0.0.1"}},
		{"a pool", state{
			nodes:    []*corev1.Node{a, node("e", map[string]string{labelPool: "east"}, "10.0.0.8")},
			services: []*corev1.Service{service("s", 1, pool, 80), service("r", 2, v4, 80)},
		}, []string{"r 10.0.0.1,10.0.0.8", "s  port 80/TCP of 10.0.0.8 is Service a/r's"}},
		{"only nodes with endpoints", state{
			nodes: []*corev1.Node{a, b}, services: []*corev1.Service{service("s", 1, local, 80)},
			endpoints: map[types.NamespacedName]map[string]bool{{Namespace: "a", Name: "s"}: {"b": true}},
		}, []string{"s 10.0.0.2"}},
		{"the older one has the port", state{
			nodes: []*corev1.Node{b}, services: []*corev1.Service{service("young", 1, nil, 80, 443), service("old", 2, nil, 443), service("other", 1, nil, 8443)},
		}, []string{"old 10.0.0.2", "other 10.0.0.2", "young  port 443/TCP of 10.0.0.2 is Service a/old's"}},
		{"what could not be had whole leaves its ports to others", state{
			nodes: []*corev1.Node{b}, services: []*corev1.Service{service("one", 3, nil, 443), service("two", 2, nil, 80, 443), service("three", 1, nil, 80)},
		}, []string{"one 10.0.0.2", "two  port 443/TCP of 10.0.0.2 is Service a/one's", "three 10.0.0.2"}},
		{"a process has the port on one node", state{
			nodes: []*corev1.Node{a, b}, services: []*corev1.Service{service("s", 1, v4, 22)},
		}, []string{"s 10.0.0.2 port 22/TCP of node a cannot be had: in use by process 7 (sshd)"}},
		{"a port that is served is not looked at again", state{
			nodes: []*corev1.Node{a}, services: []*corev1.Service{service("s", 1, func(s *corev1.Service) { v4(s); held(s) }, 22)},
		}, []string{"s 10.0.0.1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.state.taken = ssh
			var got []string
			for _, p := range plan(c.state) {
				var addrs []string
				for _, x := range p.addrs {
					addrs = append(addrs, x.String())
				}
				got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s", p.service.Name, strings.Join(addrs, ","), strings.Join(p.conflicts, "; "))))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStatusSaysWhatIsMissing(t *testing.T) {
	p := place{service: service("s", 1, nil, 80), conflicts: []string{"port 80/TCP of 10.0.0.1 is Service a/r's"}}
	with := p.status()
	if len(with.Conditions) != 1 || with.Conditions[0].Message != p.conflicts[0] {
		t.Errorf("got conditions %+v", with.Conditions)
	}
	p.service.Status = with
	if !same(p.status(), with) {
		t.Error("the same status is written again")
	}
	healed := place{service: p.service, addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	if got := healed.status(); len(got.Conditions) != 0 || same(got, with) || got.LoadBalancer.Ingress[0].IP != "10.0.0.1" {
		t.Errorf("after it healed: %+v", got)
	}
}
