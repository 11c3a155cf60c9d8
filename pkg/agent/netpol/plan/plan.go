// Package plan works out which nftables objects make the NetworkPolicies of a
// cluster true on one node. It is pure: it is told of policies, namespaces,
// pods and addresses, and answers with what to change; it must not know an API
// client or the kernel. Start reading at Planner and Planner.Flush;
// ../DESIGN.md has the shape of the table.
package plan

import (
	"net/netip"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Key names an object with a namespace.
type Key struct{ Namespace, Name string }

func (k Key) String() string { return k.Namespace + "/" + k.Name }

// Port is a port of a container that has a name.
type Port struct {
	Name     string
	Protocol string // tcp, udp or sctp
	Number   int32
}

// Pod is what a plan needs of a pod that runs in the pod network.
type Pod struct {
	Key
	UIDs    []string // two if it is the mirror of a static pod
	Labels  labels.Set
	IPs     []netip.Addr
	Ports   []Port
	Local   bool // it runs on this node
	Created time.Time
}

// Claim says for which pod this node has given an address away. It is known
// before the pod's status has the address and before the pod can use it, until
// it no longer can.
type Claim struct {
	Pod     Key
	UID     string
	Sandbox string // that has the address, by its container's name
}

// Planner holds what is known of the cluster, and what follows from it. It is
// not safe for concurrent use.
type Planner struct {
	base Base

	pods       map[Key]*Pod
	byIP       map[netip.Addr]map[Key]*Pod
	claims     map[netip.Addr]Claim
	ghosts     map[Key]struct{} // pods that are gone from the API, but still have addresses
	namespaces map[string]labels.Set
	policies   map[string]map[string]*policy // by namespace and name

	dirty   map[netip.Addr]struct{} // to be looked at again
	touched map[Key]struct{}        // policies to be looked at again

	placed     map[netip.Addr]placement // addresses on this node that are not free
	programmed map[Key]*policy          // policies that have chains
	selectors  map[string]*selector     // by set name
	named      map[string]*namedPorts   // by set name
	groups     map[string]int           // addresses by the chain they share
	table      *table
}

// New makes a Planner that knows nothing.
func New(base Base) *Planner {
	return &Planner{
		base:       base,
		pods:       map[Key]*Pod{},
		byIP:       map[netip.Addr]map[Key]*Pod{},
		claims:     map[netip.Addr]Claim{},
		ghosts:     map[Key]struct{}{},
		namespaces: map[string]labels.Set{},
		policies:   map[string]map[string]*policy{},
		dirty:      map[netip.Addr]struct{}{},
		touched:    map[Key]struct{}{},
		placed:     map[netip.Addr]placement{},
		programmed: map[Key]*policy{},
		selectors:  map[string]*selector{},
		named:      map[string]*namedPorts{},
		groups:     map[string]int{},
		table:      newTable(base),
	}
}

// SetPod notes a pod that is new or has changed.
func (p *Planner) SetPod(pod *Pod) {
	delete(p.ghosts, pod.Key)
	if old := p.pods[pod.Key]; old != nil && old.same(pod) {
		return
	}
	p.unlink(p.pods[pod.Key])
	p.pods[pod.Key] = pod
	for _, ip := range pod.IPs {
		if p.byIP[ip] == nil {
			p.byIP[ip] = map[Key]*Pod{}
		}
		p.byIP[ip][pod.Key] = pod
		p.dirty[ip] = struct{}{}
	}
	p.dirtyClaims(func(c Claim) bool { return c.Pod == pod.Key })
}

// DeletePod notes that a pod is gone from the API, or has ended. If it runs on
// this node its containers may still be there: what holds for it goes on to
// hold until its sandbox is released.
func (p *Planner) DeletePod(key Key) {
	pod := p.pods[key]
	switch {
	case pod == nil:
	case p.holds(pod):
		p.ghosts[key] = struct{}{}
	default:
		p.unlink(pod)
		delete(p.pods, key)
	}
}

// holds reports whether this node has given an address to the pod.
func (p *Planner) holds(pod *Pod) bool {
	for _, c := range p.claims {
		if c.Pod == pod.Key && pod.is(c.UID) {
			return true
		}
	}
	return false
}

// Release notes that a sandbox has lost its addresses.
func (p *Planner) Release(sandbox string) {
	for ip, c := range p.claims {
		if c.Sandbox != sandbox {
			continue
		}
		delete(p.claims, ip)
		p.dirty[ip] = struct{}{}
		if _, gone := p.ghosts[c.Pod]; gone && !p.holds(p.pods[c.Pod]) {
			delete(p.ghosts, c.Pod)
			p.DeletePod(c.Pod)
		}
	}
}

func (p *Planner) unlink(pod *Pod) {
	if pod == nil {
		return
	}
	for _, ip := range pod.IPs {
		p.dirty[ip] = struct{}{}
		delete(p.byIP[ip], pod.Key)
		if len(p.byIP[ip]) == 0 {
			delete(p.byIP, ip)
		}
	}
}

// SetNamespace notes the labels of a namespace, nil when it is gone.
func (p *Planner) SetNamespace(name string, l labels.Set) {
	if old, ok := p.namespaces[name]; ok && labels.Equals(old, l) {
		return
	}
	if l == nil {
		delete(p.namespaces, name)
	} else {
		p.namespaces[name] = l
	}
	p.dirtyNamespace(name, false)
}

// SetPolicy notes a policy that is new or has changed. The error says what in
// it makes no sense and allows nothing; the rest is in force.
func (p *Planner) SetPolicy(np *networkingv1.NetworkPolicy) error {
	pol, err := compile(np)
	if p.policies[np.Namespace] == nil {
		p.policies[np.Namespace] = map[string]*policy{}
	}
	p.policies[np.Namespace][np.Name] = pol
	p.touched[pol.key] = struct{}{}
	p.dirtyNamespace(np.Namespace, true)
	return err
}

// DeletePolicy notes that a policy is gone.
func (p *Planner) DeletePolicy(key Key) {
	delete(p.policies[key.Namespace], key.Name)
	if len(p.policies[key.Namespace]) == 0 {
		delete(p.policies, key.Namespace)
	}
	p.touched[key] = struct{}{}
	p.dirtyNamespace(key.Namespace, true)
}

// Claim notes that this node has given addresses to a pod, and reports whether
// the pod may use them at once: it is known, and no policy selects it. An
// address whose pod is not known yet is cut off until it is, if its namespace
// has policies.
func (p *Planner) Claim(c Claim, ips ...netip.Addr) (open bool) {
	for _, ip := range ips {
		p.claims[ip] = c
		p.dirty[ip] = struct{}{}
	}
	if len(p.policies[c.Pod.Namespace]) == 0 {
		return true
	}
	pod := p.pods[c.Pod]
	if pod == nil || !pod.is(c.UID) {
		return false
	}
	return p.place(pod).free()
}

func (p *Planner) dirtyClaims(match func(Claim) bool) {
	for ip, c := range p.claims {
		if match(c) {
			p.dirty[ip] = struct{}{}
		}
	}
}

// dirtyNamespace has all addresses of a namespace looked at again, or those on
// this node only.
func (p *Planner) dirtyNamespace(name string, local bool) {
	for key, pod := range p.pods {
		if key.Namespace != name || local && !pod.Local {
			continue
		}
		for _, ip := range pod.IPs {
			p.dirty[ip] = struct{}{}
		}
	}
	p.dirtyClaims(func(c Claim) bool { return c.Pod.Namespace == name })
}

// same spares the table the many updates that are of no concern here.
func (pod *Pod) same(o *Pod) bool {
	return pod.Local == o.Local && slices.Equal(pod.UIDs, o.UIDs) && slices.Equal(pod.IPs, o.IPs) &&
		slices.Equal(pod.Ports, o.Ports) && labels.Equals(pod.Labels, o.Labels)
}

func (pod *Pod) is(uid string) bool { return uid == "" || slices.Contains(pod.UIDs, uid) }

// owner is the pod that has an address now. Statuses are late, and an address
// is used again: what this node has given away counts first, then the newest
// pod. unknown is the namespace of a pod that has the address but has not been
// heard of yet.
func (p *Planner) owner(ip netip.Addr) (pod *Pod, unknown string) {
	if c, ok := p.claims[ip]; ok {
		if pod := p.pods[c.Pod]; pod != nil && pod.is(c.UID) {
			return pod, ""
		}
		return nil, c.Pod.Namespace
	}
	for _, candidate := range p.byIP[ip] {
		if pod == nil || candidate.Created.After(pod.Created) ||
			candidate.Created.Equal(pod.Created) && candidate.String() < pod.String() {
			pod = candidate
		}
	}
	return pod, ""
}

// addresses calls fn with every address that is known.
func (p *Planner) addresses(fn func(netip.Addr)) {
	for ip := range p.byIP {
		fn(ip)
	}
	for ip := range p.claims {
		if _, both := p.byIP[ip]; !both {
			fn(ip)
		}
	}
}
