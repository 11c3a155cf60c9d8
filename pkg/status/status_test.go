package status

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/component"
)

// start runs a skiff of two parts, one of which becomes ready when the test
// says so.
func start(t *testing.T, socket string) (makeReady func(), stop func()) {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	g := component.NewGroup(logger)
	notes := new(NoteBook)
	notes.Set("manifests/broken.yaml", "line 3: not YAML")
	ready := make(chan struct{})
	g.Add(&Server{Socket: socket, Version: "v1", Source: g, Notes: notes, Logger: logger})
	g.Add(component.Func("slow", func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	}, func(context.Context) error {
		select {
		case <-ready:
			return nil
		default:
			return errors.New("the kettle is cold")
		}
	}))
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- g.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-result; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return func() { close(ready) }, stop
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestServerAndClient(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "run", "skiff.sock")
	c := Client{Socket: socket}
	if _, err := c.Get(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("before the start: %v, want ErrNotRunning", err)
	}
	makeReady, stop := start(t, socket)

	r, err := c.Wait(within(t, time.Second))
	if !errors.Is(err, ErrNotReady) || r == nil {
		t.Fatalf("Wait: %v, %v, want a report and ErrNotReady", r, err)
	}
	if got := r.Components[1].Message; got != "the kettle is cold" {
		t.Errorf("slow is not ready because %q", got)
	}
	if len(r.Notes) != 1 || r.Notes[0].Message != "line 3: not YAML" {
		t.Errorf("notes %v", r.Notes)
	}
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket mode %v, %v, want 0600", info.Mode(), err)
	}

	makeReady()
	r, err = c.Wait(within(t, 20*time.Second))
	if err != nil {
		t.Fatalf("Wait: %v", err)
	}
	if !r.Ready || r.Version != "v1" || r.PID != os.Getpid() || r.Components[0].State != component.Ready {
		t.Errorf("report %+v", r)
	}
	stop()
	if _, err := c.Get(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after the stop: %v, want ErrNotRunning", err)
	}
}

// TestStaleSocket starts where a skiff was killed.
func TestProfiles(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "run", "skiff.sock")
	start(t, socket)
	if _, err := (&Client{Socket: socket}).Wait(within(t, time.Second)); !errors.Is(err, ErrNotReady) {
		t.Fatalf("Wait: %v, want ErrNotReady", err)
	}
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://skiff/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(body, []byte("pkg/status.(*Server).Run")) {
		t.Errorf("the goroutine profile does not name this server's own goroutine:\n%.300s", body)
	}
}

func TestStaleSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "skiff.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c := Client{Socket: socket}
	if _, err := c.Get(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("stale socket: %v, want ErrNotRunning", err)
	}
	makeReady, _ := start(t, socket)
	makeReady()
	if _, err := c.Wait(within(t, 20*time.Second)); err != nil {
		t.Errorf("Wait: %v", err)
	}
}

func TestWaitForNobody(t *testing.T) {
	c := Client{Socket: filepath.Join(t.TempDir(), "skiff.sock")}
	if r, err := c.Wait(within(t, 100*time.Millisecond)); !errors.Is(err, ErrNotRunning) || r != nil {
		t.Errorf("Wait: %v, %v, want ErrNotRunning", r, err)
	}
}

// TestWaitCutOff has skiff come up as the time ends, and say nothing any more.
func TestWaitCutOff(t *testing.T) {
	c := Client{Socket: filepath.Join(t.TempDir(), "skiff.sock")}
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() {
		_, err := c.Wait(ctx)
		asked <- err
	}()
	<-time.After(20 * time.Millisecond)
	l, err := net.Listen("unix", c.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	if err := <-asked; !errors.Is(err, ErrNotRunning) {
		t.Errorf("Wait: %v, want ErrNotRunning", err)
	}
}

func TestNoteBook(t *testing.T) {
	b := new(NoteBook)
	b.Set("b", "1")
	b.Set("a", "2")
	first := b.List()
	b.Set("a", "2") // Unchanged: keeps its time.
	if diff := cmp.Diff(first, b.List()); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
	b.Clear("b")
	b.Clear("never there")
	if got := b.List(); len(got) != 1 || got[0].Key != "a" {
		t.Errorf("notes %v, want a", got)
	}
}

func TestAddOnsOfNoteBook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, begin := new(NoteBook), time.Now()
		b.SetAddOns([]AddOn{{Name: "a", State: "applied"}, {Name: "b", State: "applied"}})
		<-time.After(time.Minute)
		b.SetAddOns([]AddOn{{Name: "a", State: "applied", Objects: 2}, {Name: "b", State: "failed"}})
		want := []AddOn{{Name: "a", State: "applied", Objects: 2, Since: begin}, {Name: "b", State: "failed", Since: begin.Add(time.Minute)}}
		if diff := cmp.Diff(want, b.AddOns()); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}
