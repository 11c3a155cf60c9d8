package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/pkg/datastore"
	"skiff/test/datastore/crash/disk"
	"skiff/test/datastore/crash/ledger"
	"skiff/test/datastore/crash/recorder"
	"skiff/test/datastore/crash/victim"
)

// recording is a store's life and what clients knew of it.
type recording struct {
	log    *disk.Log
	ledger *ledger.Ledger
	// settled is the position from which on the store promises something.
	settled int
}

// life is one run of a store in a recording.
type life struct {
	load ledger.Load
	time time.Duration
	kill bool // ends with kill -9
	// settle is when the first start of the cluster is over, 0 if it is not
	// one.
	settle time.Duration
	// inherit is set for the first life of a store that holds something:
	// whatever it has when it answers, and a revision that was known before.
	inherit bool
	broken  func() bool // whether a sync fails
	known   int64
}

// record lets a store live its lives under the recorder.
func record(t *testing.T, s victim.Spec, seed uint64, lives ...life) recording {
	t.Helper()
	dir := filepath.Dir(s.Dir)
	log, err := disk.NewLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	rec := recording{log: log, ledger: ledger.New()}
	for i, l := range lives {
		l.load.Ledger, l.load.Position, l.load.Seed = rec.ledger, log.Position, seed+uint64(i)
		if settled := live(t, s, l, log); rec.settled == 0 {
			rec.settled = settled
		}
	}
	if wrong := rec.ledger.Wrong(); len(wrong) > 0 {
		t.Fatalf("while it was recorded: %v", errors.Join(wrong...))
	}
	t.Logf("recorded %d operations, %d acknowledged writes, up to revision %d", log.Position(), rec.ledger.Acks(), rec.ledger.Highest(log.Position()))
	return rec
}

// live runs one life. It returns the position at which the store said that
// the cluster's first start is on the disk.
func live(t *testing.T, s victim.Spec, l life, log *disk.Log) (settled int) {
	t.Helper()
	s.Bootstrap = l.settle > 0
	var r *recorder.Recorder
	v, err := victim.Start(s, func(cmd *exec.Cmd) (err error) {
		r, err = recorder.Start(cmd, recorder.Options{Dir: filepath.Dir(s.Dir), Log: log, Slow: time.Millisecond, Broken: l.broken})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := victim.Client(s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	l.load.Client = c
	state, err := ledger.Read(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if l.inherit {
		l.load.Ledger.Inherit(state, l.known, 0)
	}
	for _, err := range l.load.Ledger.Check(state, ledger.Accident{At: log.Position()}) {
		t.Errorf("at the start of a life: %v", err)
	}
	l.load.Ledger.Adopt(state, log.Position())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // However slow the machine is, something has to happen.
		enough, end := l.load.Ledger.Acks()+20, time.Now().Add(l.time)
		for time.Now().Before(end) || l.load.Ledger.Acks() < enough && time.Now().Before(end.Add(20*time.Second)) {
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		l.load.Watch(ctx, state.Revision+1, nil)
	}()
	settling := make(chan struct{})
	go func() {
		defer close(settling)
		if l.settle == 0 {
			return
		}
		time.Sleep(l.settle)
		if err := v.Settle(); err != nil {
			t.Error(err)
		}
		settled = log.Position()
	}()
	l.load.Run(ctx)
	<-settling
	if ctx.Err() == nil {
		t.Errorf("the load ended before its time: %v, %s", l.load.Ledger.Wrong(), v.Log())
	}
	cancel()
	<-watching
	if l.kill {
		v.Kill()
	} else if err := v.Stop(); err != nil {
		t.Error(err)
	}
	_ = c.Close()
	if err := r.Wait(); err != nil {
		t.Fatal(err)
	}
	return settled
}

// cuts chooses where to cut: anywhere, before the first answer, right after
// one, and inside or just after a sync.
func (r recording) cuts(rnd *rand.Rand, n int) []disk.Cut {
	acks, syncs := r.ledger.Positions(), r.log.Syncs()
	all := make([]disk.Cut, n)
	for i := range all {
		begin := r.log.Begin()
		at := begin + rnd.IntN(r.log.Position()-begin)
		switch kind := rnd.IntN(6); {
		case kind < 2 && len(acks) > 0:
			at = acks[rnd.IntN(len(acks))]
		case kind == 2 && len(acks) > 0:
			at = begin + rnd.IntN(slices.Min(acks)-begin)
		case kind < 5:
			at = syncs[rnd.IntN(len(syncs))] + rnd.IntN(3)
		}
		all[i] = disk.RandomCut(max(begin, min(at, r.log.Position())), rnd)
	}
	return all
}

// verdicts of one image.
type verdict struct {
	refused error   // the store did not open
	wrong   []error // what is lost or used twice, and must not be
	lost    []error // what full durability would not have lost
}

// promise says what a store has promised about the writes before a cut.
type promise func(at int) ledger.Accident

// full is the promise of the default durability.
func full(int) ledger.Accident {
	return ledger.Accident{Lost: func(key string) bool { return !ledger.Durable(key) }}
}

// nothing only promises that what is there makes sense.
func nothing(int) ledger.Accident {
	return ledger.Accident{Lost: func(string) bool { return true }}
}

// try opens what a cut has left, with a store that knows that the machine was
// started again, and looks what is there.
func (r recording) try(t *testing.T, s victim.Spec, cut disk.Cut, promised promise) verdict {
	t.Helper()
	dir := fastDir(t)
	defer os.RemoveAll(dir)
	at := victim.Spec{Dir: filepath.Join(dir, filepath.Base(s.Dir)), Socket: filepath.Join(dir, "s"), Durability: s.Durability, BootID: "another-boot"}
	if err := r.log.Build(cut).WriteTo(dir); err != nil {
		t.Fatal(err)
	}
	var v verdict
	v.refused = serve(t, at, func(c *clientv3.Client) error {
		forgive, strictly := promised(cut.At), full(cut.At)
		forgive.At, strictly.At = cut.At, cut.At
		state, err := ledger.Read(t.Context(), c)
		if err != nil {
			return err
		}
		v.wrong, v.lost = r.ledger.Check(state, forgive), r.ledger.Check(state, strictly)
		v.wrong = append(v.wrong, r.again(t.Context(), c, cut.At)...)
		return nil
	})
	if v.refused == nil {
		v.refused = integrity(at.Dir)
	}
	return v
}

// again checks that life goes on: new revisions are new, and whoever watched
// hears about them or is told to list again.
func (r recording) again(ctx context.Context, c *clientv3.Client, at int) []error {
	known := r.ledger.Highest(at)
	next := ledger.Load{Ledger: ledger.New(), Client: c, Position: func() int { return 0 }}
	const key = ledger.Pods + "default/after"
	var wrong []error
	if err := next.Change(ctx, key, []byte("after"), 0); err != nil {
		return append(wrong, fmt.Errorf("write after the cut: %w", err))
	}
	if err := next.Change(ctx, ledger.Leases+"after", []byte("after"), 0); err != nil {
		return append(wrong, fmt.Errorf("renew a lease after the cut: %w", err))
	}
	w, _ := next.Ledger.Last(key)
	if w.Revision <= known {
		return append(wrong, fmt.Errorf("the first revision after the cut is %d, but %d was known before", w.Revision, known))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for resp := range c.Watch(ctx, ledger.All, clientv3.WithPrefix(), clientv3.WithRev(known+1)) {
		if resp.CompactRevision > 0 {
			return wrong
		}
		for _, e := range resp.Events {
			switch {
			case string(e.Kv.Key) == key && e.Kv.ModRevision == w.Revision:
				return wrong
			case e.Kv.ModRevision > known:
			default:
				return append(wrong, fmt.Errorf("a watch from %d tells of revision %d", known+1, e.Kv.ModRevision))
			}
		}
	}
	return append(wrong, fmt.Errorf("a watch from revision %d says nothing about revision %d", known+1, w.Revision))
}

// serve runs a store in this process for the time of a function. The error is
// that of the store, or the function's.
func serve(t *testing.T, s victim.Spec, use func(*clientv3.Client) error) error {
	t.Helper()
	return serveOptions(t, s.Options(quiet), use)
}

func serveOptions(t *testing.T, o datastore.Options, use func(*clientv3.Client) error) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- victim.Serve(ctx, o, func(datastore.Datastore) { close(ready) }) }()
	select {
	case err := <-ended:
		return fmt.Errorf("the store did not start: %w", err)
	case <-ready:
	}
	c, err := victim.Client(o.Socket)
	if err != nil {
		return err
	}
	err = use(c)
	_ = c.Close()
	cancel()
	return errors.Join(err, <-ended)
}
