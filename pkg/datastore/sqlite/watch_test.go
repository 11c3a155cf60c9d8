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
func open(t *testing.T) server.Backend {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	f := file{path: t.TempDir() + "/state.db", logger: slog.New(slog.DiscardHandler)}
	b, stop, err := f.backend(ctx, &wg)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(ctx); err != nil {
			t.Error(err)
		}
		cancel()
		wg.Wait()
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

// TestProgressNeverOvertakesEvents does what kine's bridge does for a progress
// request of the API server, while other watches and writers are busy.
func TestProgressNeverOvertakesEvents(t *testing.T) {
	b := open(t)
	for range 50 { // as many as the API server has
		other := b.Watch(t.Context(), "/registry/", "/registry0", 1)
		go func() {
			for range other.Events {
			}
		}()
	}
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 100 {
				create(t, b, fmt.Sprintf("/registry/other/%d-%d", w, i))
			}
		})
	}
	defer writers.Wait()
	events := b.Watch(t.Context(), "/registry/mine/", "/registry/mine0", 1).Events
	for i := range 200 {
		revision := create(t, b, fmt.Sprintf("/registry/mine/%d", i))
		b.WaitForSyncTo(revision)
		select {
		case got := <-events:
			if len(got) != 1 || got[0].KV.ModRevision != revision {
				t.Fatalf("want the event of revision %d, got %d events from %d", revision, len(got), got[0].KV.ModRevision)
			}
		default:
			t.Fatalf("progress to %d was reported before event %d was handed out", revision, revision)
		}
	}
}

// TestWatchLosesNothingWhileItStarts starts watches in the middle of writes:
// past and present have to join without a gap or a repetition.
func TestWatchLosesNothingWhileItStarts(t *testing.T) {
	b := open(t)
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
	b := open(t)
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

func TestSlowWatchEnds(t *testing.T) {
	b := open(t)
	watch := b.Watch(t.Context(), "/registry/", "/registry0", 1)
	for i := 0; ; i++ {
		if i > 2*queueLength*100 {
			t.Fatal("a watch that nobody reads is still there")
		}
		b.WaitForSyncTo(create(t, b, fmt.Sprintf("/registry/%d", i)))
		if i >= queueLength && len(watch.Events) == cap(watch.Events) {
			break
		}
	}
	b.WaitForSyncTo(create(t, b, "/registry/last"))
	n := 0
	for range watch.Events { // ends because it was closed
		n++
	}
	if n != queueLength {
		t.Errorf("%d batches before the end, want %d", n, queueLength)
	}
}

func TestWatchFromCompactedRevision(t *testing.T) {
	b := open(t)
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
