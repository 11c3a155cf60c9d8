package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// family is one of the two families of addresses.
type family struct {
	name    string // as nft calls it
	address string // nft's type of an address
	suffix  string // of the names of sets
}

var (
	ipv4 = family{"ip", "ipv4_addr", "-4"}
	ipv6 = family{"ip6", "ipv6_addr", "-6"}
)

func familyOf(ip netip.Addr) family {
	if ip.Is4() {
		return ipv4
	}
	return ipv6
}

// hash makes a name of fixed length from what the named thing is, so that equal
// things have one name.
func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:8])
}

func selectorName(s peerSelector) string { return "pods-" + hash(s.String()) }
func namedName(m portMatch) string       { return "port-" + hash(m.scope, m.protocol, m.name) }
func policyName(d direction, k Key) string {
	return d.String() + "-policy-" + hash(k.Namespace, k.Name)
}

// chainRules are the rules of the chain of a policy. A packet that none of them
// accepts returns to the chain of its pod.
func (b Base) chainRules(d direction, rules []rule) []string {
	var out []string
	seen := map[string]bool{}
	for _, r := range rules {
		for _, f := range b.Families() {
			for _, peer := range r.peerMatches(d, f) {
				for _, port := range portMatches(f, r.ports) {
					text := strings.Join(slices.DeleteFunc([]string{peer, port, "accept"}, func(s string) bool { return s == "" }), " ")
					if !seen[text] {
						seen[text] = true
						out = append(out, text)
					}
				}
			}
		}
	}
	return out
}

// peerMatches are the matches of which one has to be true, "" for always.
func (r rule) peerMatches(d direction, f family) []string {
	if r.anyone {
		return []string{""}
	}
	field := f.name + " " + d.peerField() + " "
	var out []string
	for _, p := range r.peers {
		out = append(out, field+"@"+selectorName(p)+f.suffix)
	}
	for _, b := range r.blocks {
		if b.cidr.Addr().Is4() != (f == ipv4) {
			continue
		}
		match := field + b.cidr.String()
		if b.cidr.Bits() == 0 {
			match = "meta nfproto " + strings.TrimSuffix(f.address, "_addr")
		}
		if len(b.except) > 0 {
			var except []string
			for _, e := range b.except {
				except = append(except, e.String())
			}
			match += " " + field + "!= { " + strings.Join(except, ", ") + " }"
		}
		out = append(out, match)
	}
	return out
}

// portMatches are the matches of which one has to be true, "" for always.
func portMatches(f family, ports []portMatch) []string {
	if len(ports) == 0 {
		return []string{""}
	}
	var out []string
	for _, protocol := range []string{"tcp", "udp", "sctp"} {
		if slices.ContainsFunc(ports, func(m portMatch) bool { return !m.never && m.all && m.protocol == protocol }) {
			out = append(out, "meta l4proto "+protocol)
			continue
		}
		if numbers := merged(protocol, ports); len(numbers) > 0 {
			out = append(out, protocol+" dport { "+strings.Join(numbers, ", ")+" }")
		}
		for _, m := range ports {
			if m.name != "" && m.protocol == protocol {
				out = append(out, f.name+" daddr . "+protocol+" dport @"+namedName(m)+f.suffix)
			}
		}
	}
	return out
}

// merged are the numeric ports of a protocol as ranges that do not touch: nft
// refuses ranges that overlap.
func merged(protocol string, ports []portMatch) []string {
	var ranges []portMatch
	for _, m := range ports {
		if m.protocol == protocol && !m.never && !m.all && m.name == "" {
			ranges = append(ranges, m)
		}
	}
	slices.SortFunc(ranges, func(a, b portMatch) int { return cmp.Compare(a.first, b.first) })
	var out []string
	for i := 0; i < len(ranges); {
		first, last := ranges[i].first, ranges[i].last
		for i++; i < len(ranges) && ranges[i].first <= last+1; i++ {
			last = max(last, ranges[i].last)
		}
		if first == last {
			out = append(out, fmt.Sprint(first))
		} else {
			out = append(out, fmt.Sprintf("%d-%d", first, last))
		}
	}
	return out
}
