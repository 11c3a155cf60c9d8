package kine

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// healthKey is kine's own.
const healthKey = "/registry/health"

var exact = cmp.AllowUnexported(version{}, event{})

func versionOf(kv *mvccpb.KeyValue) version {
	return version{string(kv.Value), kv.ModRevision, kv.CreateRevision, kv.Lease}
}

// compare reads everything: now, at past revisions, key by key, and as events.
func (b *book) compare(t *testing.T) {
	t.Helper()
	now := b.list(t, 0)
	if diff := cmp.Diff(b.now, now, exact); diff != "" {
		t.Fatalf("turn %d (%s): now (-want +got):\n%.2000s", b.turn, b.side, diff)
	}
	for rev, want := range b.at {
		got := b.list(t, rev)
		if got == nil && rev < b.compacted {
			continue
		}
		if diff := cmp.Diff(want, got, exact); diff != "" {
			t.Fatalf("turn %d (%s): at %d (-want +got):\n%.2000s", b.turn, b.side, rev, diff)
		}
	}
	for key, want := range b.now {
		r, err := b.client.Get(t.Context(), key)
		if err != nil || len(r.Kvs) != 1 || versionOf(r.Kvs[0]) != want {
			t.Fatalf("turn %d (%s): get %s: %v, %v, want %+v", b.turn, b.side, key, r, err, want)
		}
	}
	b.compareEvents(t)
}

// list returns nil if the revision has been compacted. It reads in pages.
func (b *book) list(t *testing.T, revision int64) map[string]version {
	t.Helper()
	found := map[string]version{}
	for key := "/registry/"; ; {
		r, err := b.client.Get(t.Context(), key, clientv3.WithRange("/registry0"), clientv3.WithRev(revision), clientv3.WithLimit(60))
		if errors.Is(err, rpctypes.ErrCompacted) {
			return nil
		}
		if err != nil {
			t.Fatalf("turn %d (%s): list at %d: %v", b.turn, b.side, revision, err)
		}
		if revision == 0 {
			if r.Header.Revision < b.revision {
				t.Fatalf("turn %d (%s): the store is at %d, but %d had been reached", b.turn, b.side, r.Header.Revision, b.revision)
			}
			revision = r.Header.Revision
		}
		for _, kv := range r.Kvs {
			if string(kv.Key) != healthKey {
				found[string(kv.Key)] = versionOf(kv)
			}
		}
		if !r.More {
			return found
		}
		key = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

// compareEvents watches from before all that a watch may ask for, and from the
// first revision that is there.
func (b *book) compareEvents(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if b.compacted > 2000 {
		r := <-b.client.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithRev(2))
		if !errors.Is(r.Err(), rpctypes.ErrCompacted) || r.CompactRevision == 0 {
			t.Fatalf("turn %d (%s): watch from 2: %+v, want compacted", b.turn, b.side, r)
		}
	}
	i := slices.IndexFunc(b.events, func(e event) bool { return e.now.mod > b.compacted })
	if i < 0 {
		return
	}
	want := b.visible(b.events[i:])
	w := b.client.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithRev(want[0].now.mod), clientv3.WithPrevKV())
	limit := time.After(20 * time.Second)
	var got []event
	for len(got) < len(want) {
		select {
		case <-limit:
			t.Fatalf("turn %d (%s): %d events after twenty seconds, want %d", b.turn, b.side, len(got), len(want))
		case r := <-w:
			if err := r.Err(); err != nil {
				t.Fatalf("turn %d (%s): watch: %v", b.turn, b.side, err)
			}
			got = appendEvents(got, r.Events)
		}
	}
	for i := range got {
		got[i].by = want[i].by
	}
	if diff := cmp.Diff(want, b.visible(got), exact); diff != "" {
		t.Fatalf("turn %d (%s): events (-want +got):\n%.2000s", b.turn, b.side, diff)
	}
}

// visible leaves out what stock kine does not know. It takes previous values
// from a column that skiff does not write any more; no API server asks for
// them, since it lists before it watches. And it leaves out when a key was
// created that is removed.
func (b *book) visible(events []event) []event {
	events = slices.Clone(events)
	for i := range events {
		e := &events[i]
		if b.side == kine.name && e.by == skiff.name {
			e.prev.value = ""
		}
		if b.side == kine.name && e.deleted {
			e.prev.create = 0
		}
	}
	return events
}

func appendEvents(to []event, events []*clientv3.Event) []event {
	for _, e := range events {
		if string(e.Kv.Key) == healthKey {
			continue
		}
		ev := event{key: string(e.Kv.Key), deleted: e.Type == clientv3.EventTypeDelete, now: versionOf(e.Kv)}
		if ev.deleted {
			ev.now = version{mod: e.Kv.ModRevision} // Stock kine tells more here than etcd.
		}
		if e.PrevKv != nil && e.PrevKv.ModRevision != 0 && !e.IsCreate() {
			ev.prev = versionOf(e.PrevKv)
		}
		to = append(to, ev)
	}
	return to
}
