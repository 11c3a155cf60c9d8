package crash

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/test/datastore/crash/ledger"
	"skiff/test/datastore/crash/victim"
)

// TestDamagedFileIsNoticedLater damages pages of a database that was closed,
// which is not checked when it is opened. Whoever then meets a damaged page is
// told so, and the next start puts it right.
func TestDamagedFileIsNoticedLater(t *testing.T) {
	t.Parallel()
	seed := seed(t)
	f := fillStore(t, true)
	met := 0
	for n := range amount(30, 300) {
		dir := fastDir(t)
		s := victim.Spec{Dir: filepath.Join(dir, "db"), Socket: filepath.Join(dir, "s")}
		if err := os.CopyFS(s.Dir, os.DirFS(f.spec.Dir)); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(s.Dir, "state.db")
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		data = pages(3, noise)(rand.New(rand.NewPCG(seed, uint64(n))), data, f.page)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if f.workOn(t, s, 1) == nil {
			continue
		}
		met++
		if err := f.workOn(t, s, 2); err != nil {
			t.Errorf("seed %#x, %d: after a restart: %v", seed, n, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if t.Logf("%d times a damaged page was met", met); met == 0 {
		t.Error("no damaged page was ever met")
	}
}

// workOn starts a store and writes to all its keys.
func (f filled) workOn(t *testing.T, s victim.Spec, turn int) error {
	t.Helper()
	return serve(t, s, func(c *clientv3.Client) error {
		r, err := c.Get(t.Context(), ledger.All, clientv3.WithPrefix())
		if err != nil {
			return honest(t, err)
		}
		l := ledger.Load{Ledger: ledger.New(), Client: c, Position: func() int { return 0 }}
		state, err := ledger.Read(t.Context(), c)
		if err != nil {
			return honest(t, err)
		}
		l.Ledger.Inherit(state, 0, 0)
		for _, kv := range r.Kvs {
			key := string(kv.Key)
			if key == "/registry/health" {
				continue
			}
			if err := l.Change(t.Context(), key, fmt.Appendf(nil, "%s %d", key, turn), 0); err != nil {
				return errors.Join(honest(t, err), errors.Join(l.Ledger.Wrong()...))
			}
		}
		return errors.Join(l.Ledger.Wrong()...)
	})
}

// honest expects that an error says that the database is damaged.
func honest(t *testing.T, err error) error {
	t.Helper()
	if !strings.Contains(err.Error(), "DataLoss") {
		t.Errorf("on a damaged page: %v, want DataLoss", err)
	}
	return err
}

// TestDamagedWhileRunning damages the file under a running store: a list is
// complete or an error.
func TestDamagedWhileRunning(t *testing.T) {
	t.Parallel()
	f := fillStore(t, true)
	file := filepath.Join(f.spec.Dir, "state.db")
	for i, how := range []func(*rand.Rand, []byte){zero, noise, invert} {
		dir := fastDir(t)
		s := victim.Spec{Dir: filepath.Join(dir, "db"), Socket: filepath.Join(dir, "s")}
		if err := os.CopyFS(s.Dir, os.DirFS(f.spec.Dir)); err != nil {
			t.Fatal(err)
		}
		failed := 0
		_ = serve(t, s, func(c *clientv3.Client) error {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r := rand.New(rand.NewPCG(uint64(i), 0))
			for at := f.page; at < len(data); at += f.page {
				how(r, data[at:at+f.page])
			}
			// In place: the store has the file open.
			db, err := os.OpenFile(filepath.Join(s.Dir, "state.db"), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.WriteAt(data[f.page:], int64(f.page)); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				failed += f.listOrError(t, c)
			}
			return nil
		})
		if failed == 0 {
			t.Error("no list has failed, although no page is left: the test does not reach the disk")
		}
	}
}

// listOrError lists everything, and returns 1 if that was refused.
func (f filled) listOrError(t *testing.T, c *clientv3.Client) int {
	t.Helper()
	state, err := ledger.Read(t.Context(), c)
	if err != nil {
		if !strings.Contains(err.Error(), "DataLoss") {
			t.Errorf("LIST on damaged pages: %v, want DataLoss", err)
		}
		return 1
	}
	if lost := f.missing(state); len(lost) > 0 {
		t.Errorf("LIST on damaged pages succeeds, but %v", errors.Join(lost...))
	}
	return 0
}
