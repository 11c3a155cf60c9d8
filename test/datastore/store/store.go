// Package store runs a datastore in the test's own process and speaks etcd's
// protocol to it, as the API server does. It knows the public API of
// pkg/datastore only. Start reading at Start.
package store

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"skiff/pkg/datastore"
)

// readyWithin is far more than a start takes on a machine that has other
// things to do.
const readyWithin = 30 * time.Second

// Store is a running datastore.
type Store struct {
	datastore.Datastore

	dir     string
	cancel  context.CancelFunc
	done    chan error
	stopped bool
}

// Start runs a datastore for the rest of the test. endpoint is as in
// --datastore-endpoint; dir, which may be shared by stores that run one after
// the other, holds the database if it is SQLite's, in the file File(dir).
func Start(t testing.TB, dir, endpoint string) *Store {
	t.Helper()
	// Not below dir: a socket's path may have 107 bytes, and the names of
	// tests are long.
	sock, err := os.MkdirTemp("", "store") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(sock) })
	ds, err := datastore.Open(datastore.Options{
		Endpoint: endpoint, Dir: dir, Socket: filepath.Join(sock, "s"), Logger: slog.New(slog.NewTextHandler(output{t}, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Store{Datastore: ds, dir: dir, cancel: cancel, done: make(chan error, 1)}
	go func() { s.done <- ds.Run(ctx) }()
	t.Cleanup(func() { s.Stop(t) })
	s.wait(t)
	return s
}

// File is the SQLite database that Start keeps in dir.
func File(dir string) string { return filepath.Join(dir, "state.db") }

func (s *Store) wait(t testing.TB) {
	t.Helper()
	limit := time.Now().Add(readyWithin)
	for {
		err := s.Ready(t.Context())
		if err == nil {
			return
		}
		select {
		case end := <-s.done:
			s.stopped = true
			t.Fatalf("the datastore stopped before it was ready: %v", end)
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(limit) {
			t.Fatalf("the datastore is not ready after %s: %v", readyWithin, err)
		}
	}
}

// Stop ends the datastore and waits for it. It may be called more than once.
func (s *Store) Stop(t testing.TB) {
	t.Helper()
	if s.stopped {
		return
	}
	s.stopped = true
	s.cancel()
	if err := <-s.done; err != nil {
		t.Errorf("stop the datastore: %v", err)
	}
}

// Config is for a client of the store.
func (s *Store) Config() clientv3.Config {
	return clientv3.Config{
		Endpoints:   s.Endpoint().Servers,
		DialTimeout: readyWithin,
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
		Logger:      zap.NewNop(), // It would say of each refusal that it was one.
	}
}

// Client returns a client that is closed when the test ends.
func (s *Store) Client(t testing.TB) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(s.Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Kubernetes returns the client that the API server uses.
func (s *Store) Kubernetes(t testing.TB) *kubernetes.Client {
	t.Helper()
	c, err := kubernetes.New(s.Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// output shows the datastore's log in the test's, if the test has not ended.
type output struct{ t testing.TB }

func (o output) Write(line []byte) (int, error) {
	if o.t.Context().Err() == nil {
		o.t.Logf("%s", line)
	}
	return len(line), nil
}
