package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"skiff/internal/lockfile"
	"skiff/pkg/datastore"
	"skiff/pkg/paths"
	"skiff/pkg/snapshot"
)

// machine is a host's directories.
type machine struct{ paths.Layout }

func newMachine(t *testing.T) machine {
	t.Helper()
	dir := t.TempDir()
	return machine{paths.Layout{Data: filepath.Join(dir, "data"), Etc: filepath.Join(dir, "etc"), Run: filepath.Join(dir, "run")}}
}

func (m machine) database() string { return filepath.Join(m.ServerDB(), "state.db") }

func (m machine) source() snapshot.Source {
	return snapshot.Source{Paths: m.Layout, Database: m.database(), ConfigFile: m.ConfigFile(), Registries: m.RegistriesFile(), Node: "n1.example", Version: "v1"}
}

func (m machine) target() snapshot.Target {
	return snapshot.Target{Paths: m.Layout, Database: m.database(), ConfigFile: m.ConfigFile(), Registries: m.RegistriesFile(), Snapshots: m.Snapshots()}
}

func (m machine) save(t *testing.T, label string) snapshot.Info {
	t.Helper()
	info, err := snapshot.Save(t.Context(), m.source(), m.Snapshots(), label)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// furnish writes the files that a server has besides its database.
func (m machine) furnish(t *testing.T) {
	t.Helper()
	for path, content := range m.files() {
		put(t, path, content)
	}
}

func (m machine) files() map[string]string {
	return map[string]string{
		m.Token():                                  "secret\n",
		filepath.Join(m.ServerTLS(), "ca.crt"):     "certificate",
		filepath.Join(m.ServerTLS(), "sub/ca.key"): "key",
		filepath.Join(m.Manifests(), "app.yaml"):   "kind: List\n",
		m.ConfigFile():                             "node-label: [a=b]\n",
		m.ConfigFile() + ".d/10.yaml":              "debug: true\n",
		m.RegistriesFile():                         "mirrors: {}\n",
	}
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantFiles compares files with what they should contain.
func wantFiles(t *testing.T, want map[string]string) {
	t.Helper()
	got := make(map[string]string)
	for path := range want {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		got[path] = string(data)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// store is a datastore that runs on a machine.
type store struct {
	*clientv3.Client

	t    *testing.T
	stop func()
}

func (m machine) run(t *testing.T) store {
	t.Helper()
	if err := os.MkdirAll(m.Run, 0o700); err != nil {
		t.Fatal(err)
	}
	ds, err := datastore.Open(datastore.Options{Dir: m.ServerDB(), Socket: m.DatastoreSocket(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ds.Run(ctx) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ds.Ready(ctx) != nil {
		select {
		case err := <-done:
			t.Fatalf("datastore stopped: %v", err)
		case <-tick.C:
		}
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints:   ds.Endpoint().Servers,
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := store{Client: c, t: t}
	s.stop = sync.OnceFunc(func() {
		_ = c.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s store) create(key, value string) int64 {
	s.t.Helper()
	r, err := s.Txn(s.t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value)).Commit()
	if err != nil || !r.Succeeded {
		s.t.Fatalf("create %s: %v, %v", key, r, err)
	}
	return r.Header.Revision
}

func (s store) keys() []string {
	s.t.Helper()
	r, err := s.Get(s.t.Context(), "/registry/k", clientv3.WithPrefix())
	if err != nil {
		s.t.Fatal(err)
	}
	var keys []string
	for _, kv := range r.Kvs {
		keys = append(keys, string(kv.Key)+"="+string(kv.Value))
	}
	return keys
}

func TestRestoreOnTheSameMachine(t *testing.T) {
	m := newMachine(t)
	m.furnish(t)
	s := m.run(t)
	s.create("/registry/k1", "1")
	info := m.save(t, snapshot.OnDemand)
	if fi, err := os.Stat(info.Path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the archive: %v, %v; want mode 600", fi, err)
	}
	last := s.create("/registry/k2", "2")
	put(t, m.ConfigFile(), "debug: false\n")
	put(t, m.Token(), "another\n")
	s.stop()

	lock, err := lockfile.Acquire(m.LockFile())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.Restore(t.Context(), m.target(), info.Path, time.Now()); !isHeld(err) {
		t.Errorf("restore while skiff runs: %v, want a refusal", err)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}

	r, err := snapshot.Restore(t.Context(), m.target(), info.Path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{m.ConfigFile()}, r.Kept); diff != "" || len(r.Written) > 0 {
		t.Errorf("configuration that was kept: %s, written: %q", diff, r.Written)
	}
	want := m.files()
	want[m.ConfigFile()] = "debug: false\n"
	want[filepath.Join(r.EtcCopy, "config.yaml")] = "node-label: [a=b]\n"
	want[filepath.Join(r.Aside, "token")] = "another\n"
	wantFiles(t, want)

	s = m.run(t)
	if diff := cmp.Diff([]string{"/registry/k1=1"}, s.keys()); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if next := s.create("/registry/k3", "3"); next <= last+1000 {
		t.Errorf("the next revision is %d, not far above %d", next, last)
	}
	list, err := snapshot.List(m.Snapshots())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].Name != info.Name || list[0].Problem != "" {
		t.Errorf("snapshots after the restore: %+v, want the one it is from", list)
	}
	entries, err := os.ReadDir(m.Data)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{"lock", "server", filepath.Base(r.Aside)}, names); diff != "" {
		t.Errorf("data directory (-want +got):\n%s", diff)
	}
}

func TestRestoreOnAnotherMachine(t *testing.T) {
	one, two := newMachine(t), newMachine(t)
	one.furnish(t)
	s := one.run(t)
	s.create("/registry/k1", "1")
	info := one.save(t, "before-the-move")
	s.stop()

	r, err := snapshot.Restore(t.Context(), two.target(), info.Path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if r.Aside != "" || r.Node != "n1.example" || len(r.Written) != 3 || len(r.Kept) > 0 {
		t.Errorf("restored %+v", r)
	}
	wantFiles(t, two.files())
	if diff := cmp.Diff([]string{"/registry/k1=1"}, two.run(t).keys()); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

// TestSnapshotOfUncleanDatabase is what an upgrade meets after a power cut:
// nothing runs, and the newest writes are in the log only.
func TestSnapshotOfUncleanDatabase(t *testing.T) {
	one, two := newMachine(t), newMachine(t)
	one.furnish(t)
	s := one.run(t)
	s.create("/registry/k1", "1")
	dead := newMachine(t)
	dead.furnish(t)
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(one.database() + suffix)
		if err != nil {
			t.Fatal(err)
		}
		put(t, dead.database()+suffix, string(data))
	}
	if err := snapshot.BeforeUpgrade(t.Context(), dead.source(), dead.Snapshots(), discard{}, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	list, err := snapshot.List(dead.Snapshots())
	if err != nil || len(list) != 1 {
		t.Fatalf("snapshots: %v, %v", list, err)
	}
	if _, err := snapshot.Restore(t.Context(), two.target(), list[0].Path, time.Now()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/registry/k1=1"}, two.run(t).keys()); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

// TestDamagedArchive turns bits and cuts the file at many places: it is noticed
// unless the content is the same all the same, and nothing is changed.
func TestDamagedArchive(t *testing.T) {
	m, fresh := newMachine(t), newMachine(t)
	m.furnish(t)
	s := m.run(t)
	s.create("/registry/k1", "1")
	info := m.save(t, snapshot.OnDemand)
	s.stop()
	sound, err := os.ReadFile(info.Path)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), info.Name)
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 0))
		data := slices.Clone(sound)
		at := rng.IntN(len(data))
		if seed%4 == 0 {
			data = data[:at]
		} else {
			data[at] ^= 1 << rng.IntN(8)
		}
		if err := os.WriteFile(bad, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := snapshot.Verify(t.Context(), bad); err == nil && !bytes.Equal(unpacked(t, data), unpacked(t, sound)) {
			t.Errorf("seed %d: damage at byte %d of %d was not noticed", seed, at, len(sound))
		}
	}
	if err := os.WriteFile(bad, sound[:len(sound)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.Restore(t.Context(), fresh.target(), bad, time.Now()); err == nil {
		t.Error("a damaged archive was restored")
	}
	if _, err := os.Stat(fresh.Server()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the refused restore has left something: %v", err)
	}
}

func unpacked(t *testing.T, archive []byte) []byte {
	t.Helper()
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	data, err := z.DecodeAll(archive, nil)
	if err != nil {
		t.Error(err)
	}
	return data
}

func TestNewestDatabase(t *testing.T) {
	m := newMachine(t)
	m.furnish(t)
	s := m.run(t)
	s.create("/registry/k1", "1")
	older := m.save(t, snapshot.Scheduled)
	s.create("/registry/k2", "2")
	newer := m.save(t, snapshot.Scheduled)
	s.stop()
	to := filepath.Join(t.TempDir(), "state.db")
	got, err := snapshot.NewestDatabase(t.Context(), m.Snapshots(), to)
	if err != nil || got.Name != newer.Name {
		t.Fatalf("got %s, %v; want %s", got.Name, err, newer.Name)
	}
	if err := os.Truncate(newer.Path, 1000); err != nil {
		t.Fatal(err)
	}
	got, err = snapshot.NewestDatabase(t.Context(), m.Snapshots(), to)
	if err != nil || got.Name != older.Name {
		t.Fatalf("got %s, %v; want %s, since the newer one is damaged", got.Name, err, older.Name)
	}
	if _, err := snapshot.NewestDatabase(t.Context(), t.TempDir(), to); !isNone(err) {
		t.Errorf("from an empty directory: %v", err)
	}
}

func TestFindAndDelete(t *testing.T) {
	m := newMachine(t)
	m.furnish(t)
	m.run(t)
	info := m.save(t, snapshot.OnDemand)
	if _, err := snapshot.Find(m.Snapshots(), strings.TrimSuffix(info.Name, ".tar.zst")); err != nil {
		t.Error(err)
	}
	if err := snapshot.Delete(m.Snapshots(), "scheduled-n1-20260101T000000Z"); !isNone(err) {
		t.Errorf("delete of what is not there: %v", err)
	}
	elsewhere := filepath.Join(t.TempDir(), info.Name)
	put(t, elsewhere, "another's")
	if err := snapshot.Delete(m.Snapshots(), elsewhere); err == nil || !strings.Contains(err.Error(), "is not in "+m.Snapshots()) {
		t.Errorf("delete of a path elsewhere: %v", err)
	}
	// One that cannot be used does not push out one that can, however new it is.
	put(t, filepath.Join(m.Snapshots(), "on-demand-n1-20360101T000000Z.tar.zst"), "broken")
	removed, err := snapshot.Prune(m.Snapshots(), snapshot.OnDemand, 1, time.Now())
	if diff := cmp.Diff([]string{"on-demand-n1-20360101T000000Z.tar.zst"}, removed); err != nil || diff != "" {
		t.Errorf("prune: %v\n%s", err, diff)
	}
	if err := snapshot.Delete(m.Snapshots(), info.Path); err != nil {
		t.Error(err)
	}
	if list, err := snapshot.List(m.Snapshots()); err != nil || len(list) > 0 {
		t.Errorf("after the deletion: %v, %v", list, err)
	}
}

func isHeld(err error) bool {
	_, ok := errors.AsType[*lockfile.HeldError](err)
	return ok
}

func isNone(err error) bool {
	_, ok := errors.AsType[*snapshot.NoneError](err)
	return ok
}

// discard is Notes that nobody reads.
type discard struct{}

func (discard) Set(string, string) {}
func (discard) Clear(string)       {}
