package datastore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// running is a datastore that has been started by start.
type running struct {
	Datastore

	stop func() error
}

// start runs a SQLite datastore in dir and waits until it is ready.
func start(t *testing.T, dir string) running {
	t.Helper()
	ds, err := Open(Options{Dir: filepath.Join(dir, "db"), Socket: filepath.Join(dir, "s.sock"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ds.Run(ctx) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ds.Ready(ctx) != nil {
		select {
		case err := <-done:
			cancel()
			t.Fatalf("datastore stopped before it was ready: %v", err)
		case <-tick.C:
		}
	}
	stopped := false
	r := running{ds, func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return r
}

func (r running) client(t *testing.T) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints:   r.Endpoint().Servers,
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// create writes a new key as the API server does.
func create(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	r, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value)).Commit()
	if err != nil {
		t.Fatal(err)
	}
	if !r.Succeeded {
		t.Fatalf("create %s: it exists", key)
	}
}

func get(t *testing.T, c *clientv3.Client, key string) []string {
	t.Helper()
	r, err := c.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, kv := range r.Kvs {
		values = append(values, string(kv.Value))
	}
	return values
}

func TestKeepsWhatWasWritten(t *testing.T) {
	dir := t.TempDir()
	first := start(t, dir)
	create(t, first.client(t), "/registry/a", "1")
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "db", "state.db-wal")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a clean stop left a write-ahead log: %v", err)
	}
	second := start(t, dir)
	if diff := cmp.Diff([]string{"1"}, get(t, second.client(t), "/registry/a")); diff != "" {
		t.Error(diff)
	}
}

func TestSocketIsPrivate(t *testing.T) {
	dir := t.TempDir()
	start(t, dir)
	fi, err := os.Stat(filepath.Join(dir, "s.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if got := fi.Mode().Perm(); got != 0o600 {
		t.Errorf("mode of the socket = %o, want 600", got)
	}
}

// TestProgressIsPrompt guards the wake-up of kine's poll loop: without it a
// requested progress notification takes up to a second.
func TestProgressIsPrompt(t *testing.T) {
	c := start(t, t.TempDir()).client(t)
	w := c.Watch(t.Context(), "/registry/", clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithProgressNotify())
	<-w
	var total time.Duration
	const rounds = 5
	for i := range rounds {
		create(t, c, "/registry/"+strings.Repeat("x", i+1), "v")
		<-w
		begin := time.Now()
		if err := c.RequestProgress(t.Context()); err != nil {
			t.Fatal(err)
		}
		for r := range w {
			if r.IsProgressNotify() {
				break
			}
		}
		total += time.Since(begin)
	}
	if mean := total / rounds; mean > 300*time.Millisecond {
		t.Errorf("mean time of a progress notification = %s, want at most 300ms", mean)
	}
}

func TestCompactionKeepsCurrentRows(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir).client(t)
	create(t, c, "/registry/kept", "kept")
	create(t, c, "/registry/gone", "gone")
	r, err := c.Get(t.Context(), "/registry/gone")
	if err != nil {
		t.Fatal(err)
	}
	rev := r.Kvs[0].ModRevision
	if _, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision("/registry/gone"), "=", rev)).
		Then(clientv3.OpDelete("/registry/gone")).Else(clientv3.OpGet("/registry/gone")).Commit(); err != nil {
		t.Fatal(err)
	}
	rev = r.Header.Revision
	create(t, c, "/registry/busy", "0")
	for i := range 1500 {
		g, err := c.Get(t.Context(), "/registry/busy")
		if err != nil {
			t.Fatal(err)
		}
		u, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision("/registry/busy"), "=", g.Kvs[0].ModRevision)).
			Then(clientv3.OpPut("/registry/busy", strings.Repeat("y", i%7))).Else(clientv3.OpGet("/registry/busy")).Commit()
		if err != nil {
			t.Fatal(err)
		}
		rev = u.Header.Revision
	}
	compact(t, c, rev)
	if diff := cmp.Diff([]string{"kept"}, get(t, c, "/registry/kept")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string(nil), get(t, c, "/registry/gone")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(1, len(get(t, c, "/registry/busy"))); diff != "" {
		t.Error(diff)
	}
	if _, err := c.Get(t.Context(), "/registry/busy", clientv3.WithRev(3)); err == nil || !strings.Contains(err.Error(), "compacted") {
		t.Errorf("read of a compacted revision: %v, want compacted", err)
	}
}

// compact asks for a compaction as the API server does.
func compact(t *testing.T, c *clientv3.Client, rev int64) {
	t.Helper()
	const key = "compact_rev_key"
	r, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.Version(key), "=", 0)).
		Then(clientv3.OpPut(key, "1")).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		t.Fatal(err)
	}
	_ = r
	if _, err := c.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedDatabase starts a store whose file is not what it was. What can
// be read is kept; where nothing can, the store refuses to start and changes
// nothing.
func TestDamagedDatabase(t *testing.T) {
	const keys = 50
	tests := []struct {
		name   string
		damage func(path string) error
		want   string // the error; "" if the store starts
	}{
		{"not a database", func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("no database ", 500)), 0o600) }, "is damaged"},
		{"empty", func(p string) error { return os.Truncate(p, 0) }, "gone or empty"},
		{"gone", os.Remove, "gone or empty"},
		{"index overwritten after an unclean stop", func(p string) error {
			if err := os.WriteFile(p+"-wal", []byte("rest of a write-ahead log"), 0o600); err != nil {
				return err
			}
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte(strings.Repeat("\xff", 1024)), 2048)
			return errors.Join(err, f.Close())
		}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "db", "state.db")
			r := start(t, dir)
			c := r.client(t)
			for i := range keys {
				create(t, c, fmt.Sprintf("/registry/k/%02d", i), strings.Repeat("v", 300))
			}
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			if err := tt.damage(path); err != nil {
				t.Fatal(err)
			}
			before, beforeErr := os.ReadFile(path)
			if tt.want == "" {
				c := start(t, dir).client(t)
				got, err := c.Get(t.Context(), "/registry/k/", clientv3.WithPrefix(), clientv3.WithCountOnly())
				if err != nil || got.Count != keys {
					t.Errorf("after salvage there are %v keys, %v, want %d", got, err, keys)
				}
				kept, err := filepath.Glob(path + ".damaged-*Z")
				if err != nil || len(kept) != 1 {
					t.Fatalf("kept databases: %v, %v", kept, err)
				}
				if data, err := os.ReadFile(kept[0]); err != nil || string(data) != string(before) {
					t.Errorf("the damaged database was not kept as it was: %v", err)
				}
				return
			}
			ds, err := Open(Options{Dir: filepath.Join(dir, "db"), Socket: filepath.Join(dir, "s.sock"), Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			err = ds.Run(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "restore a backup") {
				t.Errorf("Run = %v, want an error with %q, the file and the way out", err, tt.want)
			}
			after, afterErr := os.ReadFile(path)
			if string(before) != string(after) || (beforeErr == nil) != (afterErr == nil) {
				t.Error("the damaged file has been changed")
			}
		})
	}
}

func TestOpenEndpoint(t *testing.T) {
	tests := []struct {
		endpoint string
		want     Endpoint
		wantErr  string
	}{
		{"", Endpoint{Servers: []string{"unix:///run/d.sock"}}, ""},
		{"sqlite", Endpoint{Servers: []string{"unix:///run/d.sock"}}, ""},
		{"sqlite:///data/state.db", Endpoint{Servers: []string{"unix:///run/d.sock"}}, ""},
		{"postgres://u:p@h/db", Endpoint{Servers: []string{"unix:///run/d.sock"}, Shared: true}, ""},
		{"mysql://u:p@tcp(h:3306)/db", Endpoint{Servers: []string{"unix:///run/d.sock"}, Shared: true}, ""},
		{"https://a:2379,https://b:2379", Endpoint{Servers: []string{"https://a:2379", "https://b:2379"}, TLS: TLS{CAFile: "ca"}, Shared: true}, ""},
		{"https://a:2379,b:2379", Endpoint{}, "server 2"},
		{"oracle://u:secret@h", Endpoint{}, `unknown scheme "oracle"`},
		{"/data/state.db", Endpoint{}, "want sqlite"},
	}
	for _, tt := range tests {
		t.Run(tt.endpoint, func(t *testing.T) {
			ds, err := Open(Options{Endpoint: tt.endpoint, Socket: "/run/d.sock", TLS: TLS{CAFile: "ca"}, Logger: slog.New(slog.DiscardHandler)})
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) || strings.Contains(err.Error(), "secret") {
					t.Fatalf("Open = %v, want an error with %q and no password", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, ds.Endpoint()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
