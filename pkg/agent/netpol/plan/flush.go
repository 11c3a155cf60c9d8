package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// placement is what happens to the packets of an address on this node.
type placement struct {
	policies [directions][]*policy // sorted by name
	isolated [directions]bool
	cut      bool // nothing at all, in spite of policies
}

// free reports whether no rule concerns the address.
func (l placement) free() bool { return !l.cut && !l.isolated[ingress] && !l.isolated[egress] }

// group names the chain of all pods that the same policies select.
func (l placement) group(d direction) string {
	var names []string
	for _, p := range l.policies[d] {
		names = append(names, p.key.String())
	}
	return d.String() + "-pods-" + hash(names...)
}

// place finds the policies that select a pod.
func (p *Planner) place(pod *Pod) placement {
	var l placement
	all := p.policies[pod.Namespace]
	if len(all) == 0 {
		return l
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		pol := all[name]
		if !pol.pods.Matches(pod.Labels) {
			continue
		}
		for d := range directions {
			if pol.applies[d] {
				l.isolated[d] = true
				l.policies[d] = append(l.policies[d], pol)
			}
		}
	}
	return l
}

// Flush works out what has changed since the last call of Flush or All.
func (p *Planner) Flush() Changes {
	p.update()
	return p.table.changes()
}

// All works out the whole table.
func (p *Planner) All() Changes {
	p.update()
	return p.table.all()
}

// update brings the table up to date. Its order keeps what is referred to:
// new chains and sets come before, old ones go after what points to them.
func (p *Planner) update() {
	now := map[netip.Addr]placement{}
	for ip := range p.dirty {
		now[ip] = p.choose(ip)
	}
	for ip, l := range now {
		p.use(ip, p.placed[ip], l)
	}
	p.programPolicies()
	for ip := range p.dirty {
		pod, _ := p.owner(ip)
		for name, s := range p.selectors {
			p.member(name, s, ip, pod)
		}
		for name, n := range p.named {
			p.ports(name, n, ip, pod)
		}
	}
	for ip, l := range now {
		p.steer(ip, l)
	}
	for name, n := range p.groups {
		if n == 0 {
			p.table.dropChain(name)
			delete(p.groups, name)
		}
	}
	clear(p.dirty)
	clear(p.touched)
}

// choose decides about an address. Other nodes see to their own pods.
func (p *Planner) choose(ip netip.Addr) placement {
	pod, unknown := p.owner(ip)
	switch {
	case pod != nil && pod.Local:
		return p.place(pod)
	case pod == nil && len(p.policies[unknown]) > 0:
		return placement{cut: true}
	}
	return placement{}
}

// use notes which policies an address needs, and no longer needs.
func (p *Planner) use(ip netip.Addr, old, now placement) {
	for d := range directions {
		for _, pol := range old.policies[d] {
			delete(pol.users, ip)
			p.touched[pol.key] = struct{}{}
		}
	}
	for d := range directions {
		for _, pol := range now.policies[d] {
			pol.users[ip] = struct{}{}
			p.touched[pol.key] = struct{}{}
		}
	}
}

// programPolicies makes the chains of policies that select a pod of this node,
// and removes the others'.
func (p *Planner) programPolicies() {
	for key := range p.touched {
		now := p.policies[key.Namespace][key.Name]
		if now != nil && len(now.users) == 0 {
			now = nil
		}
		old := p.programmed[key]
		if old == now {
			continue
		}
		if now != nil {
			p.programmed[key] = now
			p.acquire(now)
		} else {
			delete(p.programmed, key)
		}
		for d := range directions {
			if now != nil && now.applies[d] {
				p.table.setChain(Chain{Name: policyName(d, key), Comment: key.String(), Rules: p.base.chainRules(d, now.rules[d])})
			} else {
				p.table.dropChain(policyName(d, key))
			}
		}
		if old != nil {
			p.release(old)
		}
	}
}

// steer sends the packets of an address to the chain of its policies.
func (p *Planner) steer(ip netip.Addr, now placement) {
	f, key := familyOf(ip), ip.String()
	if _, ok := p.table.sets[selfName(f)]; !ok {
		return // A family that the pod network does not have.
	}
	old := p.placed[ip]
	for d := range directions {
		if old.isolated[d] {
			p.groups[old.group(d)]--
		}
		switch {
		case now.cut:
			p.table.set(mapName(d, f), key, "drop")
		case now.isolated[d]:
			name := now.group(d)
			p.groups[name]++
			p.table.setChain(p.groupChain(d, name, now.policies[d]))
			p.table.set(mapName(d, f), key, "goto "+name)
		default:
			p.table.unset(mapName(d, f), key)
		}
	}
	if now.free() {
		delete(p.placed, ip)
		p.table.unset(selfName(f), key+" . "+key)
		return
	}
	p.placed[ip] = now
	p.table.set(selfName(f), key+" . "+key, "")
}

func (p *Planner) groupChain(d direction, name string, policies []*policy) Chain {
	c := Chain{Name: name}
	for _, f := range p.base.Families() {
		c.Rules = append(c.Rules, fmt.Sprintf("%s saddr . %s daddr @%s accept", f.name, f.name, selfName(f)))
	}
	var names []string
	for _, pol := range policies {
		names = append(names, pol.key.Name)
		c.Rules = append(c.Rules, "jump "+policyName(d, pol.key))
	}
	c.Rules = append(c.Rules, "drop")
	c.Comment = "pods of " + policies[0].key.Namespace + " selected by " + strings.Join(names, ", ")
	return c
}

// selector is the set of a peerSelector.
type selector struct {
	peerSelector
	refs int
}

// namedPorts is the set of the addresses and ports that have a name.
type namedPorts struct {
	portMatch
	refs    int
	members map[netip.Addr][]string
}

// acquire makes the sets that a policy needs.
func (p *Planner) acquire(pol *policy) {
	pol.references(func(s peerSelector) {
		name := selectorName(s)
		if have := p.selectors[name]; have != nil {
			have.refs++
			return
		}
		have := &selector{peerSelector: s, refs: 1}
		p.selectors[name] = have
		for _, f := range p.base.Families() {
			p.table.addSet(Set{Name: name + f.suffix, Type: f.address, Comment: s.String()})
		}
		p.addresses(func(ip netip.Addr) {
			pod, _ := p.owner(ip)
			p.member(name, have, ip, pod)
		})
	}, func(m portMatch) {
		name := namedName(m)
		if have := p.named[name]; have != nil {
			have.refs++
			return
		}
		have := &namedPorts{portMatch: m, refs: 1, members: map[netip.Addr][]string{}}
		p.named[name] = have
		for _, f := range p.base.Families() {
			p.table.addSet(Set{Name: name + f.suffix, Type: f.address + " . inet_service", Comment: "port " + m.name + " of " + m.scope})
		}
		p.addresses(func(ip netip.Addr) {
			pod, _ := p.owner(ip)
			p.ports(name, have, ip, pod)
		})
	})
}

// release removes the sets that nobody needs any more.
func (p *Planner) release(pol *policy) {
	drop := func(name string) {
		for _, f := range p.base.Families() {
			p.table.dropSet(name + f.suffix)
		}
	}
	pol.references(func(s peerSelector) {
		name := selectorName(s)
		if p.selectors[name].refs--; p.selectors[name].refs == 0 {
			delete(p.selectors, name)
			drop(name)
		}
	}, func(m portMatch) {
		name := namedName(m)
		if p.named[name].refs--; p.named[name].refs == 0 {
			delete(p.named, name)
			drop(name)
		}
	})
}

// references calls one of the functions for each set that the policy uses.
func (pol *policy) references(selected func(peerSelector), named func(portMatch)) {
	for d := range directions {
		if !pol.applies[d] {
			continue
		}
		for _, r := range pol.rules[d] {
			for _, s := range r.peers {
				selected(s)
			}
			for _, m := range r.ports {
				if m.name != "" {
					named(m)
				}
			}
		}
	}
}

// member puts an address into the set of a selector, or takes it out.
func (p *Planner) member(name string, s *selector, ip netip.Addr, pod *Pod) {
	set := name + familyOf(ip).suffix
	if _, ok := p.table.sets[set]; !ok {
		return
	}
	if pod != nil && s.matches(pod, p.namespaces) {
		p.table.set(set, ip.String(), "")
	} else {
		p.table.unset(set, ip.String())
	}
}

// ports does the same for the ports of a name.
func (p *Planner) ports(name string, n *namedPorts, ip netip.Addr, pod *Pod) {
	set := name + familyOf(ip).suffix
	if _, ok := p.table.sets[set]; !ok {
		return
	}
	var now []string
	if pod != nil && (n.scope == "" || n.scope == pod.Namespace) {
		for _, port := range pod.Ports {
			if port.Name == n.name && port.Protocol == n.protocol {
				now = append(now, ip.String()+" . "+strconv.Itoa(int(port.Number)))
			}
		}
	}
	for _, key := range n.members[ip] {
		if !slices.Contains(now, key) {
			p.table.unset(set, key)
		}
	}
	for _, key := range now {
		p.table.set(set, key, "")
	}
	if len(now) > 0 {
		n.members[ip] = now
	} else {
		delete(n.members, ip)
	}
}
