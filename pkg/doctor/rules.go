package doctor

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
)

// packet is the first of a connection, as a rule sees it.
type packet struct {
	what     string // for a person
	hook     string // "forward" or "input"
	in, out  string // interfaces; empty if not known
	src, dst netip.Addr
	proto    string
	port     int // where it goes to
	dnat     bool
}

// truth is the answer of a match: others' rules have more kinds of them than
// are understood here.
type truth int

const (
	no truth = iota
	maybe
	yes
)

func (t truth) not() truth { return yes - t }

func is(b bool) truth {
	if b {
		return yes
	}
	return no
}

// verdict is what becomes of a packet.
type verdict int

const (
	carriesOn verdict = iota
	accepted
	dropped
)

// chain is one of nftables' chains.
type chain struct {
	Family, Table, Name, Type, Hook, Policy string

	rules []rule
}

// rule is what its matches and its last statement say.
type rule struct {
	matches []func(packet) truth
	verdict verdict
	jump    string // name of a chain
	final   bool   // goto, or return: nothing after it is looked at
}

// ruleset is what `nft -j list` prints.
type ruleset []*chain

// sets holds the elements of the named sets of a table, by name.
type sets map[string][]json.RawMessage

// parseRuleset reads the output of `nft -j list …`; libnftables-json(5).
func parseRuleset(text string) (ruleset, error) {
	var doc struct {
		Items []struct {
			Chain *chain `json:"chain"`
			Set   *struct {
				Name string
				Elem []json.RawMessage
			} `json:"set"`
			Rule *struct {
				Family, Table, Chain string
				Expr                 []map[string]json.RawMessage
			} `json:"rule"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		return nil, fmt.Errorf("read nft's output: %w", err)
	}
	var all ruleset
	named := sets{}
	for _, item := range doc.Items {
		switch {
		case item.Chain != nil:
			all = append(all, item.Chain)
		case item.Set != nil:
			named[item.Set.Name] = item.Set.Elem
		case item.Rule != nil:
			if c := all.find(item.Rule.Family, item.Rule.Table, item.Rule.Chain); c != nil {
				c.rules = append(c.rules, named.parseRule(item.Rule.Expr)...)
			}
		}
	}
	return all, nil
}

func (s ruleset) find(family, table, name string) *chain {
	for _, c := range s {
		if c.Family == family && c.Table == table && c.Name == name {
			return c
		}
	}
	return nil
}

// parseRule reads a rule's statements. One with a verdict map is as many rules as
// the map has elements.
func (n sets) parseRule(exprs []map[string]json.RawMessage) []rule {
	var r rule
	var more []rule
	unknown := func(packet) truth { return maybe }
	for _, expr := range exprs {
		for kind, body := range expr {
			switch kind {
			case "match":
				r.matches = append(r.matches, n.parseMatch(body))
			case "vmap":
				more = n.parseMap(body)
			case "counter", "log", "mangle":
			case "xt", "limit", "queue": // Their conditions are not looked into.
				r.matches = append(r.matches, unknown)
			default:
				r.then(kind, body)
			}
		}
	}
	if more == nil {
		return []rule{r}
	}
	for i := range more {
		more[i].matches = slices.Concat(r.matches, more[i].matches)
	}
	return more
}

// then gives a rule its verdict.
func (r *rule) then(kind string, body json.RawMessage) {
	var to struct{ Target string }
	switch kind {
	case "accept":
		r.verdict = accepted
	case "drop", "reject":
		r.verdict = dropped
	case "jump", "goto":
		_ = json.Unmarshal(body, &to) // What is not understood jumps nowhere.
		r.jump, r.final = to.Target, kind == "goto"
	case "return":
		r.final = true
	}
}

// parseMap reads {"key": …, "data": {"set": [[value, verdict], …]}}.
func (n sets) parseMap(body json.RawMessage) []rule {
	var m struct {
		Key  map[string]json.RawMessage
		Data struct{ Set [][2]json.RawMessage }
	}
	if err := json.Unmarshal(body, &m); err != nil || len(m.Data.Set) == 0 { // a map with a name, for one
		return []rule{{matches: []func(packet) truth{func(packet) truth { return maybe }}, verdict: accepted}}
	}
	var all []rule
	for _, element := range m.Data.Set {
		r := rule{matches: []func(packet) truth{n.compare(m.Key, "==", element[0])}}
		var verdicts map[string]json.RawMessage
		if json.Unmarshal(element[1], &verdicts) == nil {
			for kind, body := range verdicts {
				r.then(kind, body)
			}
		}
		all = append(all, r)
	}
	return all
}

// decide follows a chain. unsure is true if a rule that is not understood might
// have accepted the packet earlier.
func (s ruleset) decide(c *chain, p packet, depth int) (v verdict, unsure bool) {
	const deepest = 32 // as many as the kernel allows
	if c == nil || depth > deepest {
		return carriesOn, true
	}
	for _, r := range c.rules {
		match := yes
		for _, m := range r.matches {
			match = min(match, m(p))
		}
		switch {
		case match == no:
		case match == maybe:
			unsure = unsure || r.verdict == accepted || r.jump != ""
		case r.jump != "":
			next, doubt := s.decide(s.find(c.Family, c.Table, r.jump), p, depth+1)
			unsure = unsure || doubt
			if next != carriesOn || r.final {
				return next, unsure
			}
		case r.verdict != carriesOn:
			return r.verdict, unsure
		case r.final:
			return carriesOn, unsure
		}
	}
	return carriesOn, unsure
}

// drops reports whether a base chain certainly drops a packet.
func (s ruleset) drops(c *chain, p packet) bool {
	v, unsure := s.decide(c, p, 0)
	if v == carriesOn && c.Policy == "drop" {
		v = dropped
	}
	return v == dropped && !unsure
}
