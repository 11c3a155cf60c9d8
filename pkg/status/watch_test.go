package status

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/component"
)

// kettle is a Source of one component.
type kettle struct {
	mu      sync.Mutex
	state   component.State
	why     string
	changed chan struct{}
	ready   chan struct{}
	asked   int
}

func newKettle() *kettle {
	return &kettle{state: component.Starting, why: "cold", changed: make(chan struct{}), ready: make(chan struct{})}
}

func (k *kettle) Status() []component.Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	return []component.Status{{Name: "kettle", State: k.state, Message: k.why}}
}

func (k *kettle) Changed() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changed
}

func (k *kettle) Ready() <-chan struct{} { return k.ready }

func (k *kettle) set(state component.State, why string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state, k.why = state, why
	if state == component.Ready {
		close(k.ready)
	}
	close(k.changed)
	k.changed = make(chan struct{})
}

// TestWatch follows a server through a change, an end and another start.
func TestWatch(t *testing.T) {
	k, notes := newKettle(), &NoteBook{}
	socket := filepath.Join(t.TempDir(), "skiff.sock")
	serve := func() (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		s := &Server{Socket: socket, Version: "v1", Source: k, Notes: notes, Logger: slog.New(slog.DiscardHandler)}
		s.Nodes = func(context.Context) []Node { return []Node{{Name: "shop", State: NodeReady}} }
		go func() { done <- s.Run(ctx) }()
		return func() {
			cancel()
			if err := <-done; err != nil && !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	news, watched := make(chan *Report), make(chan error, 1)
	go func() {
		watched <- (&Client{Socket: socket}).Watch(ctx, func(r *Report) error { news <- r; return nil })
	}()
	next := func(what string) *Report {
		t.Helper()
		select {
		case r := <-news:
			return r
		case <-time.After(10 * time.Second):
			t.Fatalf("no news of %s", what)
			return nil
		}
	}
	if r := next("nobody"); r != nil {
		t.Errorf("before the start: %+v", r)
	}
	stop := serve()
	if r := next("the start"); r == nil || r.Ready || r.Nodes != nil {
		t.Errorf("after the start: %+v", r)
	}
	k.mu.Lock()
	before := k.asked
	k.mu.Unlock()
	select {
	case r := <-news:
		t.Errorf("news although nothing has changed: %+v", r)
	case <-time.After(5 * gather):
	}
	k.mu.Lock()
	if k.asked != before {
		t.Errorf("the components were asked %d times while nothing changed", k.asked-before)
	}
	k.mu.Unlock()
	notes.Set("a", "b")
	if r := next("the note"); len(r.Notes) != 1 {
		t.Errorf("after the note: %+v", r)
	}
	k.set(component.Ready, "")
	if r := next("readiness"); !r.Ready || len(r.Nodes) != 1 {
		t.Errorf("after that: %+v", r)
	}
	stop()
	if r := next("the end"); r != nil {
		t.Errorf("after the end: %+v", r)
	}
	stop = serve()
	if r := next("the second start"); r == nil || !r.Ready {
		t.Errorf("after the second start: %+v", r)
	}
	cancel()
	if err := <-watched; err != nil {
		t.Errorf("Watch: %v", err)
	}
	stop()
}

// TestWatchRefused asks a skiff that does not know the question.
func TestWatchRefused(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "skiff.sock")
	l, err := listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	old := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.NotFoundHandler()}}
	old.Start()
	defer old.Close()
	err = (&Client{Socket: socket}).Watch(within(t, 10*time.Second), func(*Report) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("Watch: %v, want the answer", err)
	}
}

func TestChanges(t *testing.T) {
	now := time.Unix(1e9, 0)
	a, b := sample(now), sample(now)
	b.Components[1].State, b.Components[1].Message = component.Ready, ""
	b.Nodes = b.Nodes[:1]
	b.AddOns[0].State, b.AddOns[0].Message = "applied", ""
	b.Notes = nil
	b.Ready = true
	want := []string{"component kubelet: ready", "node till: gone", "addon site: applied", "note manifests/a.yaml: gone", "ready"}
	if diff := cmp.Diff(want, Changes(a, b)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := Changes(a, a); len(got) != 0 {
		t.Errorf("changes of nothing: %q", got)
	}
	if diff := cmp.Diff([]string{"skiff is not running"}, Changes(a, nil)); diff != "" {
		t.Error(diff)
	}
	if got := Changes(nil, b); !slices.Contains(got, "skiff v1.36.3 is running (pid 42)") || !slices.Contains(got, "component kubelet: ready") {
		t.Errorf("after a start: %q", got)
	}
}

// TestLive draws on a terminal of twelve rows, and writes lines elsewhere.
func TestLive(t *testing.T) {
	now := time.Now()
	before, after := sample(now), sample(now)
	after.Components[1].State, after.Components[1].Message = component.Ready, ""
	after.Ready = true
	watch := func(l *Live) (*Report, error) {
		reports := make(chan *Report, 2)
		reports <- before
		reports <- after
		return l.show(reports, make(chan error))
	}
	var lines strings.Builder
	last, err := watch(&Live{Out: &lines, Until: func(r *Report) bool { return r.Ready }})
	if err != nil || last != after {
		t.Errorf("show: %v, %v", last, err)
	}
	if s := lines.String(); !strings.HasPrefix(s, "skiff v1.36.3") || !strings.Contains(s, " component kubelet: ready\n") || !strings.HasSuffix(s, " ready\n") {
		t.Errorf("lines:\n%s", s)
	}
	var screen strings.Builder
	if _, err := watch(&Live{Out: &screen, Size: func() (int, int) { return 30, 12 }, Until: func(r *Report) bool { return r.Ready }}); err != nil {
		t.Error(err)
	}
	pictures := strings.Split(screen.String(), "\x1b[H")[1:]
	if len(pictures) != 2 {
		t.Fatalf("%d pictures, want 2: %q", len(pictures), screen.String())
	}
	for _, p := range pictures {
		rows := strings.Split(strings.TrimSuffix(p, "\r\n\x1b[J"), "\r\n")
		if len(rows) != 11 {
			t.Errorf("a picture of %d rows on a terminal of 12: %q", len(rows), rows)
		}
		for _, row := range rows {
			if n := len([]rune(strings.TrimSuffix(row, "\x1b[K"))); n > 30 {
				t.Errorf("a row of %d columns on a terminal of 30: %q", n, row)
			}
		}
	}
	broken := errors.New("broken pipe")
	if _, err := watch(&Live{Out: failing{broken}}); !errors.Is(err, broken) {
		t.Errorf("a broken output: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

var _ io.Writer = failing{}
