package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"skiff/pkg/component"
)

// LogPath is where Server.More may have the latest lines of the log.
const LogPath = "/log"

// Source is the part of component.Group that a Server reports on.
type Source interface {
	Status() []component.Status
	Changed() <-chan struct{}
	Ready() <-chan struct{}
}

// Server answers GET /status, GET /watch and GET /ping on a unix socket of mode 0600, and
// under /debug/pprof/ gives Go's profiles of the process:
//
//	curl -s --unix-socket /run/skiff/skiff.sock http://skiff/debug/pprof/heap > heap
//	go tool pprof -top heap
//
// It has no dependencies, so that the status can be asked for while the rest is
// still starting. It may serve only where the caller holds the data
// directory's lock: a socket file that it finds is taken for stale.
type Server struct {
	Socket  string // path of the socket; its directory is made 0755
	Version string
	Source  Source
	Notes   *NoteBook // may be nil
	// Nodes asks the cluster how its nodes are; nil, and nil of it, mean that
	// nobody here knows.
	Nodes func(context.Context) []Node
	// More is what else root may ask the process on this socket, by pattern of
	// http.ServeMux.
	More   map[string]http.Handler
	Logger *slog.Logger

	wear       wearMeter
	mu         sync.Mutex
	started    time.Time
	readyAfter time.Duration
	listening  bool
}

var (
	_ component.Component = (*Server)(nil)
	_ component.Readier   = (*Server)(nil)
)

// Name implements component.Component.
func (s *Server) Name() string { return "status" }

// Ready implements component.Readier.
func (s *Server) Ready(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.listening {
		return fmt.Errorf("not listening on %s yet", s.Socket)
	}
	return nil
}

// Run implements component.Component.
func (s *Server) Run(ctx context.Context) error {
	s.wear.proc, s.wear.now = "/proc", time.Now
	l, err := listen(s.Socket)
	if err != nil {
		return fmt.Errorf("open status socket: %w", err)
	}
	s.mu.Lock()
	s.started, s.listening = time.Now(), true
	s.mu.Unlock()

	srv := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.Logger.Handler(), slog.LevelDebug),
	}
	var running sync.WaitGroup
	defer running.Wait()
	served := make(chan error, 1)
	running.Go(func() { served <- srv.Serve(l) })
	noteCtx, endNote := context.WithCancel(ctx)
	defer endNote()
	running.Go(func() { s.noteReady(noteCtx) })
	running.Go(func() { s.measure(noteCtx) })

	select {
	case err := <-served:
		return fmt.Errorf("serve status: %w", err)
	case <-ctx.Done():
	}
	// Close also removes the socket file.
	return srv.Close()
}

// measure samples what is written from when skiff is ready until ctx ends.
func (s *Server) measure(ctx context.Context) {
	select {
	case <-s.Source.Ready():
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(wearEvery)
	defer tick.Stop()
	for {
		if err := s.wear.sample(); err != nil {
			s.Logger.Debug("writes not measured", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// noteReady measures the time to ready. It returns with ctx at the latest.
func (s *Server) noteReady(ctx context.Context) {
	select {
	case <-s.Source.Ready():
		s.mu.Lock()
		defer s.mu.Unlock()
		s.readyAfter = time.Since(s.started)
	case <-ctx.Done():
	}
}

// listen replaces a stale socket, and makes the new one private from its first
// moment: it is bound under a temporary name, restricted, then moved.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(tmp, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if err := os.Rename(tmp, path); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &socketListener{UnixListener: l, path: path}, nil
}

// socketListener removes the file it was moved to.
type socketListener struct {
	*net.UnixListener
	path string
	once sync.Once
}

func (l *socketListener) Close() error {
	err := l.UnixListener.Close()
	l.once.Do(func() {
		if rmErr := os.Remove(l.path); rmErr != nil && !errors.Is(rmErr, unix.ENOENT) {
			err = errors.Join(err, rmErr)
		}
	})
	return err
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /watch", s.watch)
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		report := s.Report()
		report.Nodes = s.nodes(r.Context())
		if err := json.NewEncoder(w).Encode(report); err != nil {
			s.Logger.Debug("status not sent", "err", err)
		}
	})
	mux.HandleFunc("GET /ping", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "pong")
	})
	// Whoever may open the socket is root and could attach a debugger as well.
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	for pattern, h := range s.More {
		mux.Handle(pattern, h)
	}
	return mux
}

// Report returns what GET /status answers, but for the nodes.
func (s *Server) Report() *Report {
	r := &Report{Version: s.Version, PID: os.Getpid(), Components: s.Source.Status(), Ready: true}
	for _, c := range r.Components {
		r.Ready = r.Ready && c.State == component.Ready
	}
	if s.Notes != nil {
		r.Notes, r.AddOns = s.Notes.List(), s.Notes.AddOns()
	}
	r.Wear = s.wear.wear()
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Started, r.ReadyAfter = s.started, s.readyAfter
	return r
}
