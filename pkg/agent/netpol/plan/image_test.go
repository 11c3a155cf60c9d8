package plan

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// image is what a kernel would have after the changes it was given. It fails
// the test on what the kernel would refuse.
type image struct {
	t      *testing.T
	sets   map[string]map[string]string
	chains map[string][]string
}

func newImage(t *testing.T) *image { return &image{t: t} }

func (k *image) apply(c Changes) {
	k.t.Helper()
	if c.All {
		k.sets, k.chains = map[string]map[string]string{}, map[string][]string{}
	}
	for _, s := range c.Sets {
		k.sets[s.Name] = maps.Clone(s.Elements)
	}
	for _, ch := range c.Chains {
		k.chains[ch.Name] = ch.Rules
	}
	for _, e := range c.Delete {
		if _, ok := k.sets[e.Set][e.Key]; !ok {
			k.t.Errorf("element %s of %s is deleted, but not there", e.Key, e.Set)
		}
		delete(k.sets[e.Set], e.Key)
	}
	for _, e := range c.Add {
		if k.sets[e.Set] == nil {
			k.t.Errorf("element %s is added to %s, which is not there", e.Key, e.Set)
			continue
		}
		if old, ok := k.sets[e.Set][e.Key]; ok {
			k.t.Errorf("element %s of %s is added, but there with value %q", e.Key, e.Set, old)
		}
		k.sets[e.Set][e.Key] = e.Value
	}
	for _, name := range c.DropChains {
		if _, ok := k.chains[name]; !ok {
			k.t.Errorf("chain %s is dropped, but not there", name)
		}
		delete(k.chains, name)
	}
	for _, name := range c.DropSets {
		if _, ok := k.sets[name]; !ok {
			k.t.Errorf("set %s is dropped, but not there", name)
		}
		delete(k.sets, name)
	}
	k.references()
}

// references checks that nothing refers to what is not there.
func (k *image) references() {
	k.t.Helper()
	for name, rules := range k.chains {
		for _, rule := range rules {
			for word := range strings.FieldsSeq(rule) {
				if set, ok := strings.CutPrefix(word, "@"); ok && k.sets[set] == nil {
					k.t.Errorf("chain %s refers to set %s", name, set)
				}
			}
			if to, ok := strings.CutPrefix(rule, "jump "); ok {
				if _, there := k.chains[to]; !there {
					k.t.Errorf("chain %s jumps to %s", name, to)
				}
			}
		}
	}
	for name, elements := range k.sets {
		for key, value := range elements {
			if to, ok := strings.CutPrefix(value, "goto "); ok {
				if _, there := k.chains[to]; !there {
					k.t.Errorf("element %s of %s goes to %s", key, name, to)
				}
			}
		}
	}
}

// accepts lists the rules by which an address is reached, or reaches others;
// nil if it is not isolated.
func (k *image) accepts(d direction, ip string) []string {
	k.t.Helper()
	verdict, ok := k.sets[d.String()+familyOf(netip.MustParseAddr(ip)).suffix][ip]
	if !ok {
		return nil
	}
	if verdict == "drop" {
		return []string{"cut off"}
	}
	out := []string{}
	for _, rule := range k.chains[strings.TrimPrefix(verdict, "goto ")] {
		to, ok := strings.CutPrefix(rule, "jump ")
		if !ok {
			continue
		}
		for _, r := range k.chains[to] {
			out = append(out, k.expand(r))
		}
	}
	return out
}

// expand writes sets by their elements.
func (k *image) expand(rule string) string {
	words := strings.Fields(rule)
	for i, w := range words {
		if set, ok := strings.CutPrefix(w, "@"); ok {
			words[i] = "(" + strings.Join(sortedKeys(k.sets[set]), " ") + ")"
		}
	}
	return strings.Join(words, " ")
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for key := range m {
		keys = append(keys, strings.ReplaceAll(key, " . ", ":"))
	}
	slices.Sort(keys)
	return keys
}
