package netpol

import (
	"maps"
	"net/netip"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"skiff/pkg/agent/netpol/plan"
)

const (
	// dnsService is the Service of cluster DNS, which elsewhere is pods with the
	// label k8s-app of the same value. Policies that allow DNS are written for
	// those.
	dnsService = "kube-dns"
	// ingressManager marks the EndpointSlices of the ingress, and ingressName is
	// the label app.kubernetes.io/name of what stands for it: on other nodes than
	// its own, policies have to let it in.
	ingressManager = "ingress.skiff.dev"
	ingressName    = "skiff-ingress"
)

// standIns make those parts of skiff pods to policies that are pods elsewhere.
// Several of them share an address of their node, and an address has one pod.
type standIns struct {
	slices map[plan.Key]*discoveryv1.EndpointSlice
}

// standInFeeds follow the EndpointSlices of those parts.
func standInFeeds(s *session, client kubernetes.Interface, tell func(func())) []*feed {
	in := &standIns{slices: map[plan.Key]*discoveryv1.EndpointSlice{}}
	change := func(key plan.Key, slice *discoveryv1.EndpointSlice) {
		tell(func() {
			for ip, pod := range in.change(key, slice) {
				if pod == nil {
					s.planner.DeletePod(standInKey(ip))
				} else {
					s.planner.SetPod(pod)
				}
			}
		})
	}
	var out []*feed
	for _, selector := range []fields.Selector{
		fields.OneTermEqualSelector(discoveryv1.LabelServiceName, dnsService),
		fields.OneTermEqualSelector(discoveryv1.LabelManagedBy, ingressManager),
	} {
		f := newFeed(client.DiscoveryV1().RESTClient(), "endpointslices", metav1.NamespaceSystem, &discoveryv1.EndpointSlice{}, func(o *metav1.ListOptions) {
			o.LabelSelector = selector.String()
		})
		f.drop = func(key plan.Key) { change(key, nil) }
		f.set = func(obj any) {
			if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
				change(plan.Key{Namespace: slice.Namespace, Name: slice.Name}, slice)
			}
		}
		out = append(out, f)
	}
	return out
}

// standInKey is the name of the pod that stands for what is at an address: no
// pod has one with a slash.
func standInKey(ip netip.Addr) plan.Key {
	return plan.Key{Namespace: metav1.NamespaceSystem, Name: "address/" + ip.String()}
}

// change takes in a slice, nil if it has gone, and returns what stands at its
// addresses now, nil for nothing.
func (in *standIns) change(key plan.Key, slice *discoveryv1.EndpointSlice) map[netip.Addr]*plan.Pod {
	out := map[netip.Addr]*plan.Pod{}
	for _, ip := range addressesOf(in.slices[key]) {
		out[ip] = nil
	}
	delete(in.slices, key)
	if slice != nil {
		in.slices[key] = slice
	}
	for _, ip := range addressesOf(slice) {
		out[ip] = nil
	}
	for ip := range out {
		out[ip] = in.at(ip)
	}
	return out
}

// at is what stands at an address.
func (in *standIns) at(ip netip.Addr) *plan.Pod {
	var pod *plan.Pod
	for _, key := range slices.SortedFunc(maps.Keys(in.slices), func(a, b plan.Key) int { return slices.Compare([]string{a.Name}, []string{b.Name}) }) {
		slice := in.slices[key]
		if !slices.Contains(addressesOf(slice), ip) {
			continue
		}
		if pod == nil {
			pod = &plan.Pod{Key: standInKey(ip), UIDs: []string{ip.String()}, Labels: labels.Set{}, IPs: []netip.Addr{ip}}
		}
		if slice.Labels[discoveryv1.LabelManagedBy] == ingressManager {
			pod.Labels["app.kubernetes.io/name"] = ingressName
			continue
		}
		pod.Labels["k8s-app"] = dnsService
		pod.Ports = append(pod.Ports, dnsPorts(slice)...)
	}
	return pod
}

// addressesOf are those of a slice that are no pod's.
func addressesOf(slice *discoveryv1.EndpointSlice) []netip.Addr {
	if slice == nil {
		return nil
	}
	var out []netip.Addr
	for _, endpoint := range slice.Endpoints {
		if endpoint.TargetRef != nil && endpoint.TargetRef.Kind == "Pod" {
			continue
		}
		for _, text := range endpoint.Addresses {
			if a, err := netip.ParseAddr(text); err == nil {
				out = append(out, a.Unmap())
			}
		}
	}
	return out
}

// dnsPorts are those that such pods have.
func dnsPorts(slice *discoveryv1.EndpointSlice) []plan.Port {
	var out []plan.Port
	for _, port := range slice.Ports {
		if port.Name != nil && port.Port != nil {
			out = append(out,
				plan.Port{Name: *port.Name, Protocol: protocol(port.Protocol), Number: *port.Port},
				plan.Port{Name: plan.PortDNS, Protocol: protocol(port.Protocol), Number: *port.Port})
		}
	}
	return out
}
