package plan

import (
	"maps"
	"slices"
	"strings"
)

// Set is a set or map of addresses.
type Set struct {
	Name, Type, Comment string
	Map                 bool
	Elements            map[string]string // values are empty in a set
}

// Chain is a chain with all its rules.
type Chain struct {
	Name, Comment string
	Hook          *Hook // nil if other chains go there
	Rules         []string
}

// Element is one element of a Set.
type Element struct {
	Set, Key, Value string
	Map             bool
}

// Changes lead from one state of the table to the next. They have to be made
// in this order and at once, only Drop… may follow later.
type Changes struct {
	All        bool // what there is has to go first
	Sets       []Set
	Delete     []Element
	Add        []Element
	Chains     []Chain // new ones, and old ones with other rules
	DropChains []string
	DropSets   []string
}

// Empty reports whether there is nothing to do.
func (c Changes) Empty() bool {
	return !c.All && len(c.Sets)+len(c.Delete)+len(c.Add)+len(c.Chains)+len(c.DropChains)+len(c.DropSets) == 0
}

// table is what the kernel should have, and what of it has changed.
type table struct {
	sets   map[string]*Set
	chains map[string]Chain

	live       map[string]bool // sets and chains that the kernel has
	newSets    map[string]bool
	dropSets   map[string]bool
	newChains  map[string]bool
	dropChains map[string]bool
	before     map[element]string // value that changed elements had
	added      map[element]bool   // changed elements that were not there
}

type element struct{ set, key string }

func newTable(b Base) *table {
	t := &table{sets: map[string]*Set{}, chains: map[string]Chain{}}
	t.all()
	for _, s := range b.sets() {
		t.addSet(s)
	}
	for _, c := range b.chains() {
		t.setChain(c)
	}
	return t
}

// settle forgets what has changed.
func (t *table) settle() {
	t.newSets, t.dropSets = map[string]bool{}, map[string]bool{}
	t.newChains, t.dropChains = map[string]bool{}, map[string]bool{}
	t.before, t.added = map[element]string{}, map[element]bool{}
}

func (t *table) addSet(s Set) {
	s.Elements = map[string]string{}
	t.sets[s.Name] = &s
	t.newSets[s.Name] = true
	delete(t.dropSets, s.Name)
}

func (t *table) dropSet(name string) {
	delete(t.sets, name)
	delete(t.newSets, name)
	if t.live[name] {
		t.dropSets[name] = true
	}
}

func (t *table) setChain(c Chain) {
	if old, ok := t.chains[c.Name]; ok && slices.Equal(old.Rules, c.Rules) {
		return
	}
	t.chains[c.Name] = c
	t.newChains[c.Name] = true
	delete(t.dropChains, c.Name)
}

func (t *table) dropChain(name string) {
	delete(t.chains, name)
	delete(t.newChains, name)
	if t.live[name] {
		t.dropChains[name] = true
	}
}

// set gives an element a value.
func (t *table) set(set, key, value string) {
	old, ok := t.sets[set].Elements[key]
	if ok && old == value {
		return
	}
	t.note(set, key, old, ok)
	t.sets[set].Elements[key] = value
}

func (t *table) unset(set, key string) {
	old, ok := t.sets[set].Elements[key]
	if !ok {
		return
	}
	t.note(set, key, old, ok)
	delete(t.sets[set].Elements, key)
}

func (t *table) note(set, key, old string, existed bool) {
	e := element{set, key}
	if _, noted := t.before[e]; noted || t.added[e] || t.newSets[set] {
		return
	}
	if existed {
		t.before[e] = old
	} else {
		t.added[e] = true
	}
}

// changes are those since the last call.
func (t *table) changes() Changes {
	var c Changes
	for _, name := range slices.Sorted(maps.Keys(t.newSets)) {
		c.Sets = append(c.Sets, t.copySet(name))
	}
	for e, old := range t.before {
		s := t.sets[e.set]
		if s == nil || t.newSets[e.set] {
			continue
		}
		now, ok := s.Elements[e.key]
		if ok && now == old {
			continue
		}
		c.Delete = append(c.Delete, Element{Set: e.set, Key: e.key, Value: old, Map: s.Map})
		if ok {
			c.Add = append(c.Add, Element{Set: e.set, Key: e.key, Value: now, Map: s.Map})
		}
	}
	for e := range t.added {
		if s := t.sets[e.set]; s != nil && !t.newSets[e.set] {
			if now, ok := s.Elements[e.key]; ok {
				c.Add = append(c.Add, Element{Set: e.set, Key: e.key, Value: now, Map: s.Map})
			}
		}
	}
	slices.SortFunc(c.Delete, compareElements)
	slices.SortFunc(c.Add, compareElements)
	for _, name := range slices.Sorted(maps.Keys(t.newChains)) {
		c.Chains = append(c.Chains, t.chains[name])
	}
	c.DropChains = slices.Sorted(maps.Keys(t.dropChains))
	c.DropSets = slices.Sorted(maps.Keys(t.dropSets))
	for _, names := range []map[string]bool{t.newSets, t.newChains} {
		maps.Copy(t.live, names)
	}
	for _, name := range slices.Concat(c.DropChains, c.DropSets) {
		delete(t.live, name)
	}
	t.settle()
	return c
}

// all makes the whole table.
func (t *table) all() Changes {
	c := Changes{All: true}
	t.live = map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(t.sets)) {
		c.Sets = append(c.Sets, t.copySet(name))
		t.live[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(t.chains)) {
		c.Chains = append(c.Chains, t.chains[name])
		t.live[name] = true
	}
	t.settle()
	return c
}

// copySet is needed as the caller keeps what it gets while the plan goes on.
func (t *table) copySet(name string) Set {
	s := *t.sets[name]
	s.Elements = maps.Clone(s.Elements)
	return s
}

func compareElements(a, b Element) int {
	if a.Set != b.Set {
		return strings.Compare(a.Set, b.Set)
	}
	return strings.Compare(a.Key, b.Key)
}
