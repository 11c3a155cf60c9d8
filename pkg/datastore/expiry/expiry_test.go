package expiry_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/k3s-io/kine/pkg/server"

	"skiff/pkg/datastore/expiry"
)

// memory is a small store that behaves as kine's do, and can be made to fail.
type memory struct {
	mu       sync.Mutex
	revision int64
	keys     map[string]*server.KeyValue
	subs     map[chan []*server.Event]<-chan struct{}
	start    time.Time

	refuse    func(key string) error // deletions
	compacted bool                   // what watches are told
	deletes   int
	lists     int
	gone      map[string]time.Duration // key to when it was deleted
}

func newMemory() *memory {
	return &memory{keys: map[string]*server.KeyValue{}, subs: map[chan []*server.Event]<-chan struct{}{}, start: time.Now(), gone: map[string]time.Duration{}}
}

func (m *memory) put(key string, lease int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revision++
	kv := &server.KeyValue{Key: key, ModRevision: m.revision, Lease: lease}
	m.keys[key] = kv
	m.tell(&server.Event{KV: kv})
}

func (m *memory) tell(e *server.Event) {
	for c, done := range m.subs {
		select {
		case <-done:
		case c <- []*server.Event{e}:
		}
	}
}

// breakWatches ends all subscriptions.
func (m *memory) breakWatches() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.subs {
		close(c)
	}
	clear(m.subs)
}

func (m *memory) List(_ context.Context, key, end string, limit, _ int64, _ bool) (int64, []*server.KeyValue, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lists++
	var kvs []*server.KeyValue
	for _, kv := range m.keys {
		if kv.Key >= key && kv.Key < end {
			kvs = append(kvs, kv)
		}
	}
	slices.SortFunc(kvs, func(a, b *server.KeyValue) int { return strings.Compare(a.Key, b.Key) })
	return m.revision, kvs[:min(len(kvs), int(limit))], nil
}

func (m *memory) Watch(ctx context.Context, _, _ string, _ int64) server.WatchResult {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.compacted {
		return server.WatchResult{CompactRevision: m.revision}
	}
	c := make(chan []*server.Event, 20000)
	m.subs[c] = ctx.Done()
	return server.WatchResult{Events: c}
}

func (m *memory) Delete(_ context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deletes++
	if m.refuse != nil {
		if err := m.refuse(key); err != nil {
			return 0, nil, false, err
		}
	}
	kv := m.keys[key]
	if kv == nil || kv.ModRevision != revision {
		return m.revision, kv, false, nil
	}
	m.revision++
	delete(m.keys, key)
	m.gone[key] = time.Since(m.start)
	m.tell(&server.Event{Delete: true, KV: &server.KeyValue{Key: key, ModRevision: m.revision}})
	return m.revision, kv, true, nil
}

// run starts Run inside the bubble and returns a function that ends it.
func run(m *memory) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { expiry.Run(ctx, m, slog.New(slog.DiscardHandler)) })
	synctest.Wait()
	return func() { cancel(); wg.Wait() }
}

func (m *memory) expect(t *testing.T, want map[string]time.Duration) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := cmp.Diff(want, m.gone); d != "" {
		t.Errorf("when keys were deleted (-want +got):\n%s", d)
	}
}

func TestKeysExpireInTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.put("/before", 10)
		m.put("/forever", 0)
		for i := range 2500 { // More than two pages.
			m.put(fmt.Sprintf("/many/%04d", i), 0)
		}
		m.put("/zlast", 7)
		stop := run(m)
		defer stop()
		time.Sleep(2 * time.Second)
		m.put("/after", 3)        // due at 5 s
		m.put("/renewed", 4)      // due at 6 s, written again at 5 s
		m.put("/made-lasting", 4) // written again without a lease
		m.put("/century", 1<<62)  // must not overflow
		time.Sleep(3 * time.Second)
		m.put("/renewed", 4)
		m.put("/made-lasting", 0)
		time.Sleep(time.Hour)
		m.expect(t, map[string]time.Duration{
			"/after": 5 * time.Second, "/zlast": 7 * time.Second, "/renewed": 9 * time.Second, "/before": 10 * time.Second,
		})
	})
}

func TestRestartGivesTheFullTimeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.put("/key", 10)
		stop := run(m)
		time.Sleep(6 * time.Second)
		stop()
		stop = run(m)
		defer stop()
		time.Sleep(time.Minute)
		m.expect(t, map[string]time.Duration{"/key": 16 * time.Second})
	})
}

func TestLostSubscriptionKeepsTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.put("/kept", 10)
		m.put("/gone", 10)
		m.put("/unseen", 0)
		stop := run(m)
		defer stop()
		time.Sleep(6 * time.Second)
		m.breakWatches()
		// Nobody tells of these.
		m.put("/unseen", 20)
		m.mu.Lock()
		delete(m.keys, "/gone")
		m.mu.Unlock()
		time.Sleep(time.Minute)
		m.expect(t, map[string]time.Duration{"/kept": 10 * time.Second, "/unseen": 26*time.Second + 100*time.Millisecond})
		if m.lists != 2 || m.deletes != 2 {
			t.Errorf("%d lists and %d deletions, want 2 and 2", m.lists, m.deletes)
		}
	})
}

func TestCompactedWatchBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.put("/key", 100)
		m.compacted = true
		stop := run(m)
		defer stop()
		time.Sleep(10 * time.Minute)
		// 0.1 s, 0.2 s … 25.6 s, then each 30 s.
		if m.lists > 30 {
			t.Errorf("the keys were listed %d times in ten minutes", m.lists)
		}
		m.expect(t, map[string]time.Duration{"/key": 100 * time.Second})
	})
}

func TestConflictIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.put("/key", 5)
		stop := run(m)
		defer stop()
		m.mu.Lock()
		m.revision++ // Written by somebody; the event is late.
		m.keys["/key"] = &server.KeyValue{Key: "/key", ModRevision: m.revision, Lease: 5}
		m.mu.Unlock()
		time.Sleep(time.Hour)
		m.expect(t, map[string]time.Duration{})
		if m.deletes != 1 {
			t.Errorf("%d deletions were tried, want 1", m.deletes)
		}
	})
}

func TestFailingStoreIsNotPressed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		for i := range 1000 {
			m.put(fmt.Sprintf("/key/%03d", i), 1)
		}
		m.refuse = func(string) error { return errors.New("no space") }
		stop := run(m)
		defer stop()
		time.Sleep(61 * time.Second)
		m.mu.Lock()
		if m.deletes < 10 || m.deletes > 25 {
			t.Errorf("%d deletions were tried in a minute, want about 17", m.deletes)
		}
		m.refuse = nil
		m.mu.Unlock()
		// The ones that were tried wait for their own turn.
		time.Sleep(35 * time.Second)
		if len(m.gone) != 1000 {
			t.Errorf("%d keys were deleted after the store had recovered, want 1000", len(m.gone))
		}
	})
}

func TestOneBadKeyHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.put("/bad", 1)
		m.put("/good", 2)
		m.put("/better", 3)
		m.refuse = func(key string) error {
			if key == "/bad" {
				return errors.New("refused")
			}
			return nil
		}
		stop := run(m)
		defer stop()
		time.Sleep(10 * time.Second)
		// The bad key is tried again at 2.0 s and holds up for 0.2 s at most.
		for key, latest := range map[string]time.Duration{"/good": 2500 * time.Millisecond, "/better": 3500 * time.Millisecond} {
			if at, ok := m.gone[key]; !ok || at > latest {
				t.Errorf("%s was deleted at %v, want before %v", key, at, latest)
			}
		}
	})
}

func TestManyKeysAreCheap(t *testing.T) {
	const keys = 10_000
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		for i := range keys {
			m.put(fmt.Sprintf("/registry/events/default/pod-%06d.17f", i), 3600)
		}
		before := heapInUse()
		stop := run(m)
		each := (int64(heapInUse()) - int64(before) - 20000*24) / keys // The channel is the test's.
		t.Logf("%d bytes a key", each)
		if each > 160 {
			t.Errorf("a leased key takes %d bytes, want at most 160", each)
		}
		time.Sleep(2 * time.Hour)
		stop()
		if len(m.gone) != keys {
			t.Errorf("%d keys were deleted, want %d", len(m.gone), keys)
		}
	})
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}
