package model

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/go-cmp/cmp"
)

// checkChanges compares what was acknowledged with what was watched: each
// change is there once, and nothing else is.
func (r *runner) checkChanges(t *testing.T) {
	t.Helper()
	acked := map[int64]op{}
	for _, o := range r.ops {
		if !o.applied {
			continue
		}
		if other, twice := acked[o.revision]; twice {
			t.Fatalf("revision %d was given to %s %q and to %s %q", o.revision, other.kind, other.key, o.kind, o.key)
		}
		acked[o.revision] = o
		c, ok := r.history.change(o.revision)
		if !ok || c.key != o.key || c.deleted != (o.kind == remove) || (!c.deleted && c.now.value != o.value) {
			t.Fatalf("%s %q=%.40q was acknowledged at %d, but the event there is %s", o.kind, o.key, o.value, o.revision, c)
		}
	}
	for _, c := range r.history.events {
		if _, ok := acked[c.revision]; !ok && len(c.key) > 3 && c.key[:3] == "/m/" {
			t.Fatalf("nobody made the change %s", c)
		}
	}
}

// checkReads compares every answer with the model at the revision that it
// claims.
func (r *runner) checkReads(t *testing.T, ops []op) {
	t.Helper()
	for _, o := range ops {
		if o.at > 0 && o.kind != compact && o.at < o.compactedBefore && !o.compacted {
			t.Fatalf("%s %q at %d was answered although %d had been compacted", o.kind, o.key, o.at, o.compactedBefore)
		}
		if o.compacted {
			continue
		}
		switch o.kind {
		case update, remove:
			if o.applied {
				if before := r.history.at(o.key, o.revision-1); before.mod != o.expect {
					t.Fatalf("%s %q at %d replaced version %d, want %d", o.kind, o.key, o.revision, before.mod, o.expect)
				}
				continue
			}
			if want := r.history.at(o.key, o.revision); o.found != want || want.mod == o.expect {
				t.Fatalf("%s %q of version %d was refused at %d with %.40q of %d, the model has %.40q of %d", o.kind, o.key, o.expect, o.revision, o.found.value, o.found.mod, want.value, want.mod)
			}
		case put:
			if want := r.history.at(o.key, o.revision-1); o.found != want {
				t.Fatalf("put %q at %d replaced %.40q of %d, the model has %.40q of %d", o.key, o.revision, o.found.value, o.found.mod, want.value, want.mod)
			}
		case get, list:
			r.checkRange(t, o)
		}
	}
}

// checkRange compares a list with the model.
func (r *runner) checkRange(t *testing.T, o op) {
	t.Helper()
	at := o.at
	if at == 0 {
		at = o.revision
	}
	keys, pairs := r.history.state(o.key, o.end, at)
	keys, pairs = slices.Clone(keys), slices.Clone(pairs)
	name := fmt.Sprintf("%s %q to %q at %d (header %d), limit %d, keys only %v, count only %v", o.kind, o.key, o.end, o.at, o.revision, o.limit, o.keysOnly, o.countOnly)
	if o.revision < at {
		t.Fatalf("%s: the header is older than what is read", name)
	}
	// A database server counts in a second query; if the revision has been
	// compacted in between it only says that there are more.
	estimated := !r.dense && o.at > 0 && o.at < r.compacted.mayBe() && o.more && o.count == o.limit+1
	if o.count != int64(len(keys)) && !estimated {
		t.Fatalf("%s: count %d, want %d", name, o.count, len(keys))
	}
	more := false
	if o.limit > 0 && int64(len(keys)) > o.limit {
		keys, pairs, more = keys[:o.limit], pairs[:o.limit], true
	}
	if o.countOnly {
		keys, pairs, more = nil, nil, o.more
	}
	if o.more != more {
		t.Fatalf("%s: more = %v, want %v", name, o.more, more)
	}
	var gotKeys []string
	var gotPairs []pair
	for _, kv := range o.kvs {
		gotKeys = append(gotKeys, string(kv.Key))
		gotPairs = append(gotPairs, pairOf(kv))
	}
	if o.keysOnly {
		for i := range pairs {
			pairs[i].value = ""
		}
	}
	if diff := cmp.Diff(keys, gotKeys); diff != "" {
		t.Fatalf("%s: keys (-want +got):\n%s", name, diff)
	}
	if diff := cmp.Diff(pairs, gotPairs, cmp.AllowUnexported(pair{})); diff != "" {
		t.Fatalf("%s: versions (-want +got):\n%.2000s", name, diff)
	}
}

// checkRealTime makes sure that nobody saw less than somebody had been told
// before. With checkReads this is linearizability of the whole store.
func (r *runner) checkRealTime(t *testing.T, ops []op) {
	t.Helper()
	byCall, byFinish := slices.Clone(ops), slices.Clone(ops)
	slices.SortFunc(byCall, func(a, b op) int { return int(a.call - b.call) })
	slices.SortFunc(byFinish, func(a, b op) int { return int(a.finish - b.finish) })
	known, n := op{}, 0
	for _, o := range byCall {
		for n < len(byFinish) && byFinish[n].finish < o.call {
			if byFinish[n].revision > known.revision {
				known = byFinish[n]
			}
			n++
		}
		if o.compacted {
			continue
		}
		if o.revision < known.revision || (o.applied && o.revision == known.revision) {
			t.Fatalf("%s %q of client %d was answered at %d, after client %d had been answered %s %q at %d",
				o.kind, o.key, o.client, o.revision, known.client, known.kind, known.key, known.revision)
		}
		// The header of a refused create may be newer than what refused it.
		if o.kind == create && !o.applied && !r.history.existed(o.key, known.revision, o.revision) {
			t.Fatalf("create of %q was refused at %d, but it did not exist since %d", o.key, o.revision, known.revision)
		}
	}
}

// checkLinearizable has porcupine look for an order of the requests on each
// key that explains the answers. Unlike the checks before, it believes in no
// revision of any header.
func (r *runner) checkLinearizable(t *testing.T) {
	t.Helper()
	byKey := map[string][]porcupine.Operation{}
	for _, o := range r.ops {
		if o.kind == compact || o.kind == list || o.at != 0 {
			continue
		}
		byKey[o.key] = append(byKey[o.key], porcupine.Operation{ClientId: o.client, Input: o, Call: o.call, Output: o, Return: o.finish})
	}
	model := porcupine.Model{
		Init: func() any { return pair{} },
		Step: func(state, input, _ any) (bool, any) { return explain(state.(pair), input.(op)) },
	}
	for key, ops := range byKey {
		if got := porcupine.CheckOperationsTimeout(model, ops, time.Minute); got != porcupine.Ok {
			t.Errorf("the %d requests on %q are not linearizable: %s", len(ops), key, got)
		}
	}
}

// explain says whether a key's version allows an answer, and what it is then.
func explain(now pair, o op) (bool, pair) {
	next := pair{mod: o.revision, create: created(now, o.revision), value: o.value}
	switch o.kind {
	case create:
		if o.applied {
			return now == pair{}, next
		}
		return now != pair{}, now
	case update:
		if o.applied {
			return now.mod == o.expect, next
		}
		return now.mod != o.expect && o.found == now, now
	case remove:
		if o.applied {
			return now.mod == o.expect, pair{}
		}
		return now.mod != o.expect && o.found == now, now
	case put:
		return o.found == now, next
	default:
		if o.keysOnly {
			now.value = ""
		}
		return o.found == now, now
	}
}
