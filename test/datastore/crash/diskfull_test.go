package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"skiff/test/datastore/crash/ledger"
	"skiff/test/datastore/crash/victim"
)

// crowded is a store on a small file system.
type crowded struct {
	ledger.Load

	t    *testing.T
	room *victim.Room
	spec victim.Spec
}

// TestDiskFull fills the disk under a store: what can be done without space is
// done, what cannot is refused with the reason, and both end by themselves.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	s := place(t, t.TempDir())
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	room, err := victim.NewRoom(s.Dir, "128m")
	if err != nil {
		t.Fatal(err)
	}
	defer room.Close()
	s.Room = room.PID()
	c := &crowded{t: t, room: room, spec: s}
	c.Ledger, c.Position = ledger.New(), func() int { return 0 }
	v := c.start()
	defer func() { v.Kill() }()
	for i := range 200 {
		c.must(c.Change(t.Context(), c.key(i), c.content(i, 0), 0))
	}
	for i := range 20 {
		c.must(c.Change(t.Context(), c.lease(i), c.content(i, 0), 0))
	}
	c.fill()
	c.refusedCreates(20)
	c.works()
	c.refusedCreates(20)
	c.idle(v)

	// A store that is started now must come up: nobody could tidy up otherwise.
	v.Kill()
	v = c.start()
	c.same()
	c.refusedCreates(5)
	c.works()

	c.must(os.Remove(c.room.Path("filler")))
	c.recovers()
	c.same()
	if err := v.Stop(); err != nil {
		t.Error(err)
	}
	v = c.start()
	c.same()
}

func (c *crowded) start() *victim.Victim {
	c.t.Helper()
	v, err := victim.Start(c.spec, nil)
	c.must(err)
	c.Client, err = victim.Client(c.spec.Socket)
	c.must(err)
	return v
}

func (c *crowded) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatalf("%v (in the ledger: %v)", err, c.Ledger.Wrong())
	}
}

func (c *crowded) key(i int) string   { return fmt.Sprintf("%sdefault/p%d", ledger.Pods, i) }
func (c *crowded) lease(i int) string { return fmt.Sprintf("%snode-%d", ledger.Leases, i) }
func (c *crowded) content(i, n int) []byte {
	return fmt.Appendf(nil, "%d %d %s", i, n, strings.Repeat("x", 400))
}

// fill writes until nothing more fits.
func (c *crowded) fill() {
	c.t.Helper()
	f, err := os.Create(c.room.Path("filler"))
	c.must(err)
	for size := 1 << 20; size > 0; {
		if _, err = f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	c.must(f.Close())
	if !errors.Is(err, syscall.ENOSPC) {
		c.t.Fatalf("fill the disk: %v", err)
	}
}

// refusedCreates expects that nothing new is stored, and that the answer says
// why.
func (c *crowded) refusedCreates(n int) {
	c.t.Helper()
	for i := range n {
		key := fmt.Sprintf("%sdefault/new-%d", ledger.Pods, i)
		txn := c.Client.Txn(c.t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0))
		r, err := txn.Then(clientv3.OpPut(key, string(c.content(i, 0)))).Commit()
		if status.Code(err) != codes.ResourceExhausted && !strings.Contains(fmt.Sprint(err), "ResourceExhausted") {
			c.t.Fatalf("create %d on a full disk: %v, %v, want ResourceExhausted", i, r, err)
		}
		if !strings.Contains(err.Error(), c.spec.Dir) || !strings.Contains(err.Error(), "free") {
			c.t.Errorf("create on a full disk: %v, want the directory and what is free", err)
		}
	}
}

// works does everything that must work without space.
func (c *crowded) works() {
	c.t.Helper()
	c.same()
	// As many as a hundred nodes renew in ten minutes, and the compaction of
	// the API server.
	for n := range 300 {
		for i := range 20 {
			if err := c.Change(c.t.Context(), c.lease(i), c.content(i, n), 0); err != nil {
				c.t.Fatalf("renewal %d on a full disk: %v", 20*n+i, err)
			}
		}
		if n%50 == 49 {
			_, err := c.Client.Compact(c.t.Context(), c.Ledger.Highest(0)-100)
			c.must(err)
		}
	}
	removed := 0
	for i := 0; removed < 40; i++ {
		if last, _ := c.Ledger.Last(c.key(i)); !last.Deleted {
			c.must(c.Change(c.t.Context(), c.key(i), nil, 0))
			removed++
		}
	}
	// Others may be refused, but only for the true reason: a conflict would
	// be in the ledger.
	for i := 150; i < 200; i++ {
		err := c.Change(c.t.Context(), c.key(i), c.content(i, 1), 0)
		if err != nil && !strings.Contains(err.Error(), "free") {
			c.t.Errorf("update on a full disk: %v", err)
		}
	}
	c.must(errors.Join(c.Ledger.Wrong()...))
	c.same()
}

// same compares what can be read with the ledger.
func (c *crowded) same() {
	c.t.Helper()
	state, err := ledger.Read(c.t.Context(), c.Client)
	c.must(err)
	c.must(errors.Join(c.Ledger.Check(state, ledger.Accident{})...))
}

// idle expects that a store with a full disk rests when nobody asks anything,
// and does not fill its log.
func (c *crowded) idle(v *victim.Victim) {
	c.t.Helper()
	before, lines := cpu(c.t, v.PID()), strings.Count(v.Log(), "\n")
	time.Sleep(2 * time.Second)
	if used := cpu(c.t, v.PID()) - before; used > 100*time.Millisecond {
		c.t.Errorf("on a full disk, with nobody asking, the store used %s of CPU time in 2 s", used)
	}
	if more := strings.Count(v.Log(), "\n") - lines; more > 5 || lines > 100 {
		c.t.Errorf("on a full disk the store logs %d lines, and %d in 2 s:\n%s", lines, more, v.Log())
	}
}

// recovers expects creates to work again soon.
func (c *crowded) recovers() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Second)
	defer cancel()
	var err error
	for i := 0; ctx.Err() == nil; i++ {
		if err = c.Change(ctx, fmt.Sprintf("%sdefault/after", ledger.Pods), c.content(i, 0), 0); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	c.t.Fatalf("two seconds after there was space again: %v", err)
}

// cpu is the time that a process has used.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(text, []byte(") "))
	f := strings.Fields(string(rest))
	var ticks time.Duration
	for _, v := range f[11:13] { // utime and stime
		var n int64
		if _, err := fmt.Sscan(v, &n); err != nil {
			t.Fatal(err)
		}
		ticks += time.Duration(n)
	}
	return ticks * time.Second / 100
}
