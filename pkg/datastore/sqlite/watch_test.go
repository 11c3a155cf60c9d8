package sqlite

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/k3s-io/kine/pkg/server"
)

// open starts a backend on a database of its own.
func openNew(t *testing.T) *store {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	b, err := open(ctx, Options{Dir: t.TempDir(), Durability: Full, Logger: slog.New(slog.DiscardHandler)}, newMetrics("test"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := b.close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return b
}

func create(t *testing.T, b server.Backend, key string) int64 {
	t.Helper()
	revision, err := b.Create(t.Context(), key, []byte("x"), 0)
	if err != nil {
		t.Errorf("create %s: %v", key, err)
	}
	return revision
}

// TestWatchLosesNothingWhileItStarts starts watches in the middle of writes:
// past and present have to join without a gap or a repetition.
func TestWatchLosesNothingWhileItStarts(t *testing.T) {
	b := openNew(t)
	const keys = 300
	var want []string
	for i := range keys {
		want = append(want, fmt.Sprintf("/registry/a/%03d", i))
	}
	started := make(chan struct{}, keys)
	var writer sync.WaitGroup
	writer.Go(func() {
		for _, key := range want {
			create(t, b, key)
			started <- struct{}{}
		}
	})
	defer writer.Wait()
	for range 20 {
		<-started
		watch := b.Watch(t.Context(), "/registry/a/", "/registry/a0", 1)
		var got []string
		for len(got) < keys {
			for _, e := range <-watch.Events {
				got = append(got, e.KV.Key)
			}
			if len(got) > 0 && got[len(got)-1] == want[keys-1] {
				break
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("events (-want +got):\n%s", diff)
		}
	}
}

// TestEmptyListHidesNothing lists a prefix while its first key is written: it
// is in the list, or newer than the list's revision.
func TestEmptyListHidesNothing(t *testing.T) {
	b := openNew(t)
	for i := range 200 {
		prefix := fmt.Sprintf("/registry/r%d/", i)
		done := make(chan int64, 1)
		go func() { done <- create(t, b, prefix+"key") }()
		for created := int64(0); created == 0; {
			select {
			case created = <-done:
			default:
			}
			revision, found, err := b.List(t.Context(), prefix, prefix+"~", 0, 0, false)
			if err != nil {
				t.Fatal(err)
			}
			if len(found) > 0 {
				continue
			}
			if created == 0 {
				created = <-done
			}
			if revision >= created {
				t.Fatalf("the list of %s was empty at revision %d, but a key was created at %d", prefix, revision, created)
			}
		}
	}
}

func TestWatchFromCompactedRevision(t *testing.T) {
	b := openNew(t)
	revision := create(t, b, "/registry/a")
	for range 1100 { // the newest 1000 are always kept
		next, _, ok, err := b.Update(t.Context(), "/registry/a", []byte("y"), revision, 0)
		if err != nil || !ok {
			t.Fatalf("update: %v, %v", ok, err)
		}
		revision = next
	}
	if _, err := b.Compact(t.Context(), 50); err != nil {
		t.Fatal(err)
	}
	watch := b.Watch(t.Context(), "/registry/a", "", 10)
	if _, open := <-watch.Events; open || watch.CompactRevision != 50 || watch.CurrentRevision < revision {
		t.Errorf("got open=%v compacted=%d current=%d, want an end at 50 of %d", open, watch.CompactRevision, watch.CurrentRevision, revision)
	}
}
