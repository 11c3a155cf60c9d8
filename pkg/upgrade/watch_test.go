package upgrade

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"skiff/internal/lockfile"
	"skiff/pkg/component"
	"skiff/pkg/status"
)

// service is the skiff of a machine: a process that runs the executable there,
// and an answer to questions of its state.
type service struct {
	report atomic.Pointer[status.Report]
}

// serve makes the machine's executable one that can run, of which two versions
// differ, and starts the one that is there.
func (m machine) serve(t *testing.T) *service {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", m.path("socket"))
	must(t, err)
	s := &service{}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if r := s.report.Load(); r != nil {
			_ = json.NewEncoder(w).Encode(r)
			return
		}
		http.Error(w, "not yet", http.StatusServiceUnavailable)
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return s
}

// start runs the executable of the machine, and reports on it.
func (s *service) start(t *testing.T, m machine, r status.Report) (ended <-chan struct{}) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), m.target(), "1000")
	must(t, cmd.Start())
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	r.PID = cmd.Process.Pid
	m.lock(t, r.PID)
	s.report.Store(&r)
	return done
}

// lock holds the lock that skiff holds, and says that a process does.
func (m machine) lock(t *testing.T, pid int) {
	t.Helper()
	lock, err := lockfile.Acquire(m.path("lock"))
	must(t, err)
	t.Cleanup(func() { _ = lock.Release() })
	put(t, m.path("lock"), fmt.Sprintln(pid))
}

// upgraded is a machine with an upgrade that is to be watched. Both versions are
// the sleep of the machine, the new one with something behind it.
func upgraded(t *testing.T) (machine, *service) {
	t.Helper()
	m := furnish(t, t.TempDir())
	sleep, err := exec.LookPath("sleep")
	must(t, err)
	text := get(t, sleep)
	put(t, m.dir().Previous(), text)
	must(t, os.Remove(m.target()))
	put(t, m.target(), text+"new")
	put(t, m.dir().Guard(), "")
	put(t, m.path("snapshot"), "")
	must(t, m.dir().saveConfig(nil))
	old, err := identify(m.dir().Previous())
	must(t, err)
	next, err := identify(m.target())
	must(t, err)
	must(t, m.dir().write(State{
		Phase: Watched, From: Release{Version: "v1"}, To: Release{Version: "v2"}, Target: m.target(), Old: old, New: next,
		Service: Service{Manager: Other, Socket: m.path("socket"), Lock: m.path("lock")}, Limit: 1500 * time.Millisecond, Settle: 1200 * time.Millisecond, Snapshot: m.path("snapshot"),
	}))
	return m, m.serve(t)
}

func (m machine) watcher() *Watcher {
	return &Watcher{Dir: m.dir(), Restore: m.guard(nil).Restore, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

func (m machine) phase(t *testing.T) State {
	t.Helper()
	s, err := m.dir().Read()
	must(t, err)
	return s
}

func TestWatchGood(t *testing.T) {
	m, s := upgraded(t)
	ended := s.start(t, m, status.Report{Version: "v2", Ready: true})
	begin := time.Now()
	must(t, m.watcher().Run(t.Context()))
	if got := m.phase(t); got.Phase != Done || got.Note() != "" {
		t.Errorf("phase %q, note %q", got.Phase, got.Note())
	}
	if time.Since(begin) < time.Second {
		t.Error("it did not have to stay ready")
	}
	m.wantClean(t)
	if _, err := os.Stat(m.dir().Guard()); err == nil {
		t.Error("the guard is still there")
	}
	text := get(t, m.dir().Previous())
	must(t, m.watcher().Rollback(t.Context(), "asked for", true))
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the new version still runs")
	}
	if got := m.phase(t); got.Phase != RolledBack || get(t, m.target()) != text {
		t.Errorf("after a rollback: phase %q", got.Phase)
	}
	get(t, m.path("restored"))
}

func TestWatchBad(t *testing.T) {
	waiting := status.Report{Version: "v2", Components: []component.Status{{Name: "apiserver", State: component.Starting, Message: "the datastore is unreadable"}}}
	tests := []struct {
		name  string
		start func(t *testing.T, m machine, s *service)
		want  string
	}{
		{"never ready", func(t *testing.T, m machine, s *service) { s.start(t, m, waiting) }, "apiserver (the datastore is unreadable)"},
		{"does not answer", func(*testing.T, machine, *service) {}, "status"},
		{"the old one runs", func(t *testing.T, m machine, s *service) {
			cmd := exec.CommandContext(t.Context(), m.dir().Previous(), "1000")
			must(t, cmd.Start())
			t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
			m.lock(t, cmd.Process.Pid)
			s.report.Store(&status.Report{Version: "v1", Ready: true, PID: cmd.Process.Pid})
		}, "still running is v1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, s := upgraded(t)
			text := get(t, m.dir().Previous())
			tt.start(t, m, s)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := m.watcher().Run(ctx)
			got := m.phase(t)
			if got.Phase != RolledBack || get(t, m.target()) != text {
				t.Fatalf("phase %q, error %v", got.Phase, err)
			}
			if err != nil || !strings.Contains(got.Reason, tt.want) {
				t.Errorf("the reason is %q, want %q; error %v", got.Reason, tt.want, err)
			}
			if _, err := os.Stat(m.path("restored")); err == nil {
				t.Error("the data went back, too")
			}
		})
	}
}

func TestUnitIn(t *testing.T) {
	tests := map[string]string{
		"0::/system.slice/skiff.service\n":                                      "skiff.service",
		"12:memory:/x\n1:name=systemd:/system.slice/skiff-agent.service/node\n": "skiff-agent.service",
		"0::/user.slice/user-0.slice/session-1.scope\n":                         "",
		"0::/user.slice/user-0.slice/user@0.service/app.slice\n":                "",
	}
	for text, want := range tests {
		if got := unitIn(text); got != want {
			t.Errorf("unitIn(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestAnnounce(t *testing.T) {
	m, _ := upgraded(t)
	notes := &status.NoteBook{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		Announce(t.Context(), m.dir(), notes, slog.New(slog.DiscardHandler))
	}()
	deadline := time.After(10 * time.Second)
	for len(notes.List()) == 0 {
		select {
		case <-deadline:
			t.Fatal("no note while it is watched")
		case <-time.After(time.Millisecond):
		}
	}
	_, err := m.watcher().decide(t.Context(), Done, "")
	must(t, err)
	select {
	case <-done:
	case <-deadline:
		t.Fatal("the note is not looked after to the end")
	}
	if list := notes.List(); len(list) > 0 {
		t.Errorf("notes after the end: %v", list)
	}
}
