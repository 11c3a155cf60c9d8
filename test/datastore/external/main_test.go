// Package external_test has skiff's datastore on real Postgres and MariaDB
// servers, whose connections it cuts and which it stops. Start reading at
// TestAPI.
package external_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/test/datastore/servers"
	"skiff/test/datastore/store"
)

func TestMain(m *testing.M) { os.Exit(servers.Main(m)) }

// both runs a test on an empty database of each brand.
func both(t *testing.T, test func(t *testing.T, endpoint string)) {
	for _, b := range []struct {
		name  string
		start func(testing.TB) string
	}{{"postgres", servers.Postgres}, {"mysql", servers.MySQL}} {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			test(t, b.start(t))
		})
	}
}

// open runs a skiff server's datastore and returns a client of it.
func open(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	return store.Start(t, t.TempDir(), endpoint).Client(t)
}

// within bounds an operation of a test.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// create writes a key that is not there and returns its revision, 0 if it is.
func create(ctx context.Context, c *clientv3.Client, key, value string, opts ...clientv3.OpOption) (int64, error) {
	r, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value, opts...)).Commit()
	if err != nil || !r.Succeeded {
		return 0, err
	}
	return r.Header.Revision, nil
}

// update writes a key at a revision, and returns what it is at then.
func update(ctx context.Context, c *clientv3.Client, key, value string, revision int64) (now int64, ok bool, err error) {
	r, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return 0, false, err
	}
	if r.Succeeded {
		return r.Header.Revision, true, nil
	}
	if kvs := r.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
		now = kvs[0].ModRevision
	}
	return now, false, nil
}

// remove deletes a key at a revision.
func remove(ctx context.Context, c *clientv3.Client, key string, revision int64) (now int64, ok bool, err error) {
	r, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return 0, false, err
	}
	return r.Header.Revision, r.Succeeded, nil
}

// must is for steps that a test cannot go on without.
func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// expect reads events of a watch until all wanted ones have come, and compares.
// Each is written "PUT key=value (before)" or "DELETE key (before)".
func expect(t *testing.T, w clientv3.WatchChan, want ...string) {
	t.Helper()
	ctx := within(t, 15*time.Second)
	var got []string
	var last int64
	for len(got) < len(want) {
		select {
		case <-ctx.Done():
			t.Fatalf("after %d of %d events no more came: %s", len(got), len(want), strings.Join(got, ", "))
		case r, ok := <-w:
			if !ok {
				t.Fatal("the watch ended")
			}
			if err := r.Err(); err != nil {
				t.Fatal(err)
			}
			for _, e := range r.Events {
				if e.Kv.ModRevision <= last {
					t.Errorf("an event of revision %d came after one of %d", e.Kv.ModRevision, last)
				}
				last = e.Kv.ModRevision
				got = append(got, show(e))
			}
		}
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("events:\n%s\nwant:\n%s", g, w)
	}
}

func show(e *clientv3.Event) string {
	s := fmt.Sprintf("%s %s", e.Type, e.Kv.Key)
	if e.Type == mvccpb.PUT {
		s += fmt.Sprintf("=%s", e.Kv.Value)
	}
	if e.PrevKv != nil {
		s += fmt.Sprintf(" (%s)", e.PrevKv.Value)
	}
	return s
}

// eventually waits for a condition that says what is missing.
func eventually(t *testing.T, limit time.Duration, condition func() error) time.Duration {
	t.Helper()
	begin := time.Now()
	for {
		err := condition()
		if err == nil {
			return time.Since(begin)
		}
		if time.Since(begin) > limit {
			t.Fatalf("after %v: %v", limit, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// progress asks for progress and returns how long the answer took.
func progress(ctx context.Context, t *testing.T, c *clientv3.Client, w clientv3.WatchChan, revision int64) time.Duration {
	t.Helper()
	begin := time.Now()
	if err := c.RequestProgress(ctx); err != nil {
		t.Fatal(err)
	}
	limit := time.After(10 * time.Second)
	for {
		select {
		case r, ok := <-w:
			if !ok || r.Err() != nil {
				t.Fatalf("the watch ended: %v", errors.Join(r.Err(), ctx.Err()))
			}
			if r.IsProgressNotify() && r.Header.Revision >= revision {
				return time.Since(begin)
			}
		case <-limit:
			t.Fatalf("no progress up to revision %d was reported", revision)
		}
	}
}
