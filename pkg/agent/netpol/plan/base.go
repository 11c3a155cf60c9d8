package plan

// Base is what is the same for all policies of a node.
type Base struct {
	IPv4, IPv6 bool   // families of the pod network
	Bridge     string // that pods of this node are attached to
}

// Families are those of the pod network.
func (b Base) Families() []family {
	var out []family
	if b.IPv4 {
		out = append(out, ipv4)
	}
	if b.IPv6 {
		out = append(out, ipv6)
	}
	return out
}

// Names of the maps from a pod's address to what decides about its packets.
func mapName(d direction, f family) string { return d.String() + f.suffix }

// selfName is the set of the pairs of an address and itself: a pod may always
// reach itself, also by a Service.
func selfName(f family) string { return "self" + f.suffix }

// Hook is where a chain is called by the kernel.
type Hook struct {
	Hook   string
	Before int // by how much it comes before the usual filters
}

// sets are the sets and maps that the base chains need.
func (b Base) sets() []Set {
	var out []Set
	for _, f := range b.Families() {
		for d := range directions {
			out = append(out, Set{Name: mapName(d, f), Type: f.address + " : verdict", Map: true, Comment: "pods that are isolated for " + d.String()})
		}
		out = append(out, Set{Name: selfName(f), Type: f.address + " . " + f.address, Comment: "isolated pods, with themselves"})
	}
	return out
}

// chains are the chains that the kernel calls. A packet between two pods of
// this node has to pass two of them: an accept ends one chain only.
//
// Neighbour discovery is no traffic in the sense of a policy, and bridged
// packets of it pass here. The addresses by which two hosts on one link reach
// each other without any network are no pod's own; while there are policies,
// they are not a way around them.
func (b Base) chains() []Chain {
	common := []string{
		"ct state established,related accept",
		"icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report } accept",
		`iifname "` + b.Bridge + `" ip6 saddr fe80::/10 drop`,
	}
	with := func(d direction, field string) []string {
		rules := append([]string(nil), common...)
		for _, f := range b.Families() {
			rules = append(rules, f.name+" "+field+" vmap @"+mapName(d, f))
		}
		return rules
	}
	return []Chain{
		{Name: "egress", Comment: "pods to other pods and the world", Hook: &Hook{"forward", 2}, Rules: with(egress, "saddr")},
		{Name: "egress-node", Comment: "pods to this node", Hook: &Hook{"input", 2}, Rules: with(egress, "saddr")},
		{Name: "ingress", Comment: "everybody but this node to pods", Hook: &Hook{"forward", 1}, Rules: with(ingress, "daddr")},
	}
}
