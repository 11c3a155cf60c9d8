package crash

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"skiff/test/datastore/crash/ledger"
	"skiff/test/datastore/crash/victim"
)

// TestKill kills a store in the middle of its work, again and again. Whatever
// was acknowledged, also a lease, is there the next time: the system has it.
func TestKill(t *testing.T) {
	t.Parallel()
	rounds := amount(200, 2000)
	seed := seed(t)
	k := killing{spec: place(t, t.TempDir()), ledger: ledger.New(), rnd: rand.New(rand.NewPCG(seed, 0))}
	for i := range rounds {
		k.round(t, seed+uint64(i))
		// SQLite's own check reads everything: now and then is enough.
		if i%20 == 19 && !t.Failed() {
			if err := integrityWithLog(k.spec.Dir); err != nil {
				t.Error(err)
			}
		}
		if wrong := k.ledger.Wrong(); len(wrong) > 0 || t.Failed() {
			t.Fatalf("in round %d: %v", i, errors.Join(wrong...))
		}
	}
	t.Logf("%d rounds, %d acknowledged writes, up to revision %d; %d watches resumed, %d were told to list again",
		rounds, k.ledger.Acks(), k.ledger.Highest(0), k.resumed, k.compacted)
	if k.resumed == 0 || k.compacted == 0 || k.ledger.Acks() < 10*rounds {
		t.Error("that was too little to prove anything")
	}
	k.expire(t)
}

// killing is what goes from one round to the next. All positions are 0: only
// the order of a key's writes matters when nothing but the process dies.
type killing struct {
	spec               victim.Spec
	ledger             *ledger.Ledger
	rnd                *rand.Rand
	watched            int64 // the last revision that the watch told of
	resumed, compacted int
}

// round starts the store, checks it, lets it work and kills it.
func (k *killing) round(t *testing.T, seed uint64) {
	t.Helper()
	v, err := victim.Start(k.spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Kill()
	c, err := victim.Client(k.spec.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	state, err := ledger.Read(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range k.ledger.Check(state, ledger.Accident{}) {
		t.Error(err)
	}
	if known := k.ledger.Highest(0); state.Revision < known {
		t.Errorf("the store is at revision %d, but %d was known before", state.Revision, known)
	}
	k.ledger.Adopt(state, 0)
	load := ledger.Load{
		Ledger: k.ledger, Client: c, Position: func() int { return 0 }, Seed: seed,
		Writers: 6, Renewers: 4, Keys: 8, Big: 20_000, Compact: true, Short: true,
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { k.follow(ctx, load, state.Revision) })
	var killed atomic.Bool
	wg.Go(func() {
		load.Run(ctx)
		if !killed.Load() && ctx.Err() == nil {
			t.Errorf("the load ended before the store was killed: %s", v.Log())
		}
	})
	time.Sleep(time.Duration(20+k.rnd.IntN(150)) * time.Millisecond)
	killed.Store(true)
	v.Kill()
	cancel()
}

// follow goes on with the watch of the round before.
func (k *killing) follow(ctx context.Context, load ledger.Load, now int64) {
	from := k.watched + 1
	if k.rnd.IntN(3) == 0 { // One that has been away for longer.
		from = max(1, from-int64(k.rnd.IntN(1000)))
	}
	last, compacted := load.Watch(ctx, from, nil)
	if compacted {
		k.compacted++
		last, _ = load.Watch(ctx, now+1, nil)
	} else if last >= from {
		k.resumed++
	}
	k.watched = last
}

// expire waits for keys with a short lease to go away.
func (k *killing) expire(t *testing.T) {
	t.Helper()
	v, err := victim.Start(k.spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Kill()
	c, err := victim.Client(k.spec.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		state, err := ledger.Read(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		left := 0
		for key := range state.Keys {
			if len(key) > len(ledger.Short) && key[:len(ledger.Short)] == ledger.Short {
				left++
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d keys with a lease of 2 s are still there after 15 s", left)
		}
	}
}
