package crash

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/test/datastore/crash/ledger"
	"skiff/test/datastore/crash/recorder"
	"skiff/test/datastore/crash/victim"
)

// TestClock lets the wall clock jump by ten years, between two runs of a store
// and while it runs. Keys with a lease go away in their time all the same, and
// all others stay.
func TestClock(t *testing.T) {
	t.Parallel()
	const decade = 10 * 365 * 24 * time.Hour
	year := time.Now().Year()
	s := place(t, t.TempDir())
	var clock recorder.Clock
	w := &watched{t: t, spec: s, load: ledger.Load{Ledger: ledger.New(), Position: func() int { return 0 }}}
	for i, run := range []struct{ start, then time.Duration }{{0, decade}, {-decade, decade}, {decade, -decade}} {
		clock.Set(run.start)
		r, v := w.start(&clock)
		w.create(i, "early")
		time.Sleep(time.Second)
		clock.Set(run.then)
		w.create(i, "late")
		w.expire(i)
		if i == 1 {
			v.Kill()
		} else if err := v.Stop(); err != nil {
			t.Error(err)
		}
		if err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		jumped := func(d time.Duration) bool {
			return strings.Contains(v.Log(), fmt.Sprintf("time=%d-", year+int(d/decade)*10))
		}
		if !jumped(run.start) || i != 1 && !jumped(run.then) {
			t.Errorf("run %d: the clock of the store has not jumped: %s", i, v.Log())
		}
	}
}

// watched is a store whose clock jumps.
type watched struct {
	t       *testing.T
	spec    victim.Spec
	load    ledger.Load
	created map[string]time.Time
}

func (w *watched) start(clock *recorder.Clock) (*recorder.Recorder, *victim.Victim) {
	w.t.Helper()
	var r *recorder.Recorder
	v, err := victim.Start(w.spec, func(cmd *exec.Cmd) (err error) {
		r, err = recorder.Start(cmd, recorder.Options{Clock: clock})
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(v.Kill)
	if w.load.Client, err = victim.Client(w.spec.Socket); err != nil {
		w.t.Fatal(err)
	}
	state, err := ledger.Read(w.t.Context(), w.load.Client)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, err := range w.load.Ledger.Check(state, ledger.Accident{}) {
		w.t.Error(err)
	}
	w.created = map[string]time.Time{}
	return r, v
}

const shortLease = 3 // seconds

// create writes a key that stays, one with a long lease and one with a short.
func (w *watched) create(run int, name string) {
	w.t.Helper()
	for prefix, ttl := range map[string]int64{ledger.Pods: 0, ledger.Events: 3600, ledger.Short: shortLease} {
		if ttl > 0 {
			if _, err := w.load.Client.Grant(w.t.Context(), ttl); err != nil {
				w.t.Fatal(err)
			}
		}
		key := fmt.Sprintf("%s%d-%s", prefix, run, name)
		if err := w.load.Change(w.t.Context(), key, []byte(key), ttl); err != nil {
			w.t.Fatal(err)
		}
		if ttl == shortLease {
			w.created[key] = time.Now()
		}
	}
}

// expire waits until the keys with a short lease are gone, and looks whether
// that was in time.
func (w *watched) expire(run int) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); len(w.created) > 0; time.Sleep(20 * time.Millisecond) {
		for key, since := range w.created {
			r, err := w.load.Client.Get(w.t.Context(), key, clientv3.WithKeysOnly())
			if err != nil {
				w.t.Fatal(err)
			}
			age := time.Since(since)
			switch {
			case len(r.Kvs) > 0 && time.Now().After(deadline):
				w.t.Fatalf("run %d: %s, with a lease of %d s, is still there after %s", run, key, shortLease, age)
			case len(r.Kvs) == 0 && (age < shortLease*time.Second-100*time.Millisecond || age > (shortLease+2)*time.Second):
				w.t.Errorf("run %d: %s, with a lease of %d s, was removed after %s", run, key, shortLease, age)
			}
			if len(r.Kvs) == 0 {
				delete(w.created, key)
			}
		}
	}
	state, err := ledger.Read(w.t.Context(), w.load.Client)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, err := range w.load.Ledger.Check(state, ledger.Accident{}) {
		w.t.Errorf("run %d: %v", run, err)
	}
}
