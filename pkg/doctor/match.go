package doctor

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
)

// parseMatch reads {"op": "==", "left": …, "right": …}.
func (n sets) parseMatch(body json.RawMessage) func(packet) truth {
	var m struct {
		Op    string
		Left  map[string]json.RawMessage
		Right json.RawMessage
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return func(packet) truth { return maybe }
	}
	return n.compare(m.Left, m.Op, m.Right)
}

func (n sets) compare(left map[string]json.RawMessage, op string, right json.RawMessage) func(packet) truth {
	return func(p packet) truth {
		have, known := p.value(left)
		switch {
		case !known:
			return maybe
		case have == nil:
			return no // such a packet has no such field
		}
		switch op {
		case "==", "in":
			return n.equals(have, right)
		case "!=":
			return n.equals(have, right).not()
		}
		return maybe
	}
}

// value is what the left side of a match stands for: an address, a number, or
// words of which any may match.
func (p packet) value(left map[string]json.RawMessage) (any, bool) {
	for kind, body := range left {
		var of struct{ Protocol, Field, Key string }
		if json.Unmarshal(body, &of) != nil {
			return nil, false
		}
		switch kind {
		case "payload":
			return p.payload(of.Protocol, of.Field)
		case "meta":
			return p.meta(of.Key)
		case "ct":
			switch of.Key {
			case "state":
				return []string{"new"}, true
			case "status":
				if p.dnat {
					return []string{"dnat"}, true
				}
				return []string{}, true
			case "mark":
				return 0, true
			}
		}
	}
	return nil, false
}

func (p packet) payload(protocol, field string) (any, bool) {
	v4 := protocol == "ip"
	switch {
	case (v4 || protocol == "ip6") && v4 != p.src.Is4():
		return nil, true // of the other family
	case field == "saddr" && (v4 || protocol == "ip6"):
		return p.src, true
	case field == "daddr" && (v4 || protocol == "ip6"):
		return p.dst, true
	case field == "protocol" || field == "nexthdr":
		return []string{p.proto}, true
	case field == "dport" && (protocol == p.proto || protocol == "th"):
		return p.port, true
	case slices.Contains([]string{"tcp", "udp", "sctp", "icmp", "icmpv6"}, protocol) && protocol != p.proto:
		return nil, true
	}
	return nil, false
}

func (p packet) meta(key string) (any, bool) {
	family, protocol := "ipv4", "ip"
	if !p.src.Is4() {
		family, protocol = "ipv6", "ip6"
	}
	switch key {
	case "iifname", "iif":
		return []string{p.in}, p.in != ""
	case "oifname", "oif":
		return []string{p.out}, p.out != ""
	case "l4proto":
		return []string{p.proto}, true
	case "nfproto":
		return []string{family}, true
	case "protocol":
		return []string{protocol}, true
	case "mark":
		return 0, true
	}
	return nil, false
}

// equals compares a value with the right side of a match.
func (n sets) equals(have any, right json.RawMessage) truth {
	var list []json.RawMessage
	var object map[string]json.RawMessage
	var text string
	var number float64
	switch {
	case json.Unmarshal(right, &list) == nil:
		return n.anyOf(have, list)
	case json.Unmarshal(right, &text) == nil:
		return n.equalsText(have, text)
	case json.Unmarshal(right, &number) == nil:
		n, ok := have.(int)
		return is(ok && float64(n) == number)
	case json.Unmarshal(right, &object) != nil:
		return maybe
	}
	if set, ok := object["set"]; ok && json.Unmarshal(set, &list) == nil {
		return n.anyOf(have, list)
	}
	if prefix, ok := object["prefix"]; ok {
		var p struct {
			Addr string
			Len  int
		}
		a, isAddr := have.(netip.Addr)
		if json.Unmarshal(prefix, &p) != nil {
			return maybe
		}
		first, err := netip.ParseAddr(p.Addr)
		return is(isAddr && err == nil && netip.PrefixFrom(first, p.Len).Contains(a))
	}
	if between, ok := object["range"]; ok && json.Unmarshal(between, &list) == nil && len(list) == 2 {
		return inside(have, list[0], list[1])
	}
	return maybe
}

func (n sets) anyOf(have any, list []json.RawMessage) truth {
	t := no
	for _, item := range list {
		t = max(t, n.equals(have, item))
	}
	return t
}

func (n sets) equalsText(have any, text string) truth {
	if name, ok := strings.CutPrefix(text, "@"); ok {
		elements, known := n[name]
		if !known {
			return maybe
		}
		return n.anyOf(have, elements)
	}
	switch v := have.(type) {
	case []string:
		return is(slices.ContainsFunc(v, func(s string) bool {
			prefix, wild := strings.CutSuffix(text, "*")
			return s == text || wild && strings.HasPrefix(s, prefix)
		}))
	case netip.Addr:
		a, err := netip.ParseAddr(text)
		if err != nil {
			return maybe
		}
		return is(a == v)
	}
	return maybe
}

func inside(have any, first, last json.RawMessage) truth {
	switch v := have.(type) {
	case int:
		var a, b int
		if json.Unmarshal(first, &a) != nil || json.Unmarshal(last, &b) != nil {
			return maybe
		}
		return is(a <= v && v <= b)
	case netip.Addr:
		var a, b netip.Addr
		if json.Unmarshal(first, &a) != nil || json.Unmarshal(last, &b) != nil {
			return maybe
		}
		return is(a.Compare(v) <= 0 && v.Compare(b) <= 0)
	}
	return no
}
