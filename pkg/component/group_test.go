package component_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/component"
)

// script is a component under the test's control that writes what happens to
// it into a journal shared by all of one test.
type script struct {
	*component.Group
	log bytes.Buffer

	mu      sync.Mutex
	journal []string
	t       *testing.T
}

func newScript(t *testing.T) *script {
	s := &script{t: t}
	s.Group = component.NewGroup(slog.New(slog.NewTextHandler(&lockedWriter{s: s}, &slog.HandlerOptions{Level: slog.LevelDebug})))
	return s
}

type lockedWriter struct{ s *script }

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.s.log.Write(p)
}

func (s *script) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.journal = append(s.journal, fmt.Sprintf(format, args...))
}

func (s *script) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// part runs until its ctx ends and then takes stopTime.
func (s *script) part(name string, readyAfter, stopTime time.Duration) component.Component {
	var started time.Time
	return component.Func(name, func(ctx context.Context) error {
		s.mu.Lock()
		started = time.Now()
		s.mu.Unlock()
		s.note("%s runs", name)
		<-ctx.Done()
		time.Sleep(stopTime)
		s.note("%s ends", name)
		return ctx.Err()
	}, func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if started.IsZero() || time.Since(started) < readyAfter {
			return errors.New("the kettle is cold")
		}
		return nil
	})
}

// run starts the Group and returns how to stop it; that returns Run's error.
func (s *script) run() (stop func() error) {
	ctx, cancel := context.WithCancelCause(s.t.Context())
	result := make(chan error, 1)
	go func() { result <- s.Run(ctx) }()
	return func() error {
		cancel(errors.New("the test has ended"))
		return <-result
	}
}

func (s *script) status(name string) component.Status {
	s.t.Helper()
	for _, st := range s.Status() {
		if st.Name == name {
			return st
		}
	}
	s.t.Fatalf("no component %q", name)
	return component.Status{}
}

func (s *script) wantState(name string, want component.State) {
	s.t.Helper()
	if got := s.status(name); got.State != want {
		s.t.Errorf("%s: state %v (%s), want %v", name, got.State, got.Message, want)
	}
}

func (s *script) wantJournal(want ...string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if diff := cmp.Diff(want, s.journal); diff != "" {
		s.t.Errorf("journal -want +got:\n%s", diff)
	}
}

func isReady(g *component.Group) bool {
	select {
	case <-g.Ready():
		return true
	default:
		return false
	}
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		a := s.Add(s.part("a", time.Second, time.Second))
		b := s.Add(s.part("b", time.Second, time.Second), component.After(a))
		s.Add(s.part("c", time.Second, time.Second), component.After(a, b, component.Ref{}))
		stop := s.run()

		synctest.Wait()
		s.wantJournal("a runs")
		s.wantState("b", component.Waiting)
		if got := s.status("c").Message; got != "waiting for a, b" {
			t.Errorf("c waits with message %q", got)
		}
		if got := s.status("a").Message; got != "the kettle is cold" {
			t.Errorf("a starts with message %q", got)
		}
		time.Sleep(2 * time.Second)
		s.wantJournal("a runs", "b runs")
		if isReady(s.Group) {
			t.Error("group is ready before c")
		}
		<-s.Ready()
		if got := s.status("c").ReadyAfter; got < time.Second || got > 1200*time.Millisecond {
			t.Errorf("c was ready after %v, want about 1s", got)
		}
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		s.wantJournal("a runs", "b runs", "c runs", "c ends", "b ends", "a ends")
		s.wantState("a", component.Stopped)
		if !strings.Contains(s.logged(), `reason="the test has ended"`) {
			t.Errorf("the cause of the stop is not in the log:\n%s", s.logged())
		}
	})
}

func TestFailureStopsGroup(t *testing.T) {
	errBroken := errors.New("broken")
	tests := []struct {
		name string
		fail func(context.Context) error
		want error
		text string
	}{
		{name: "error", fail: func(context.Context) error { return errBroken }, want: errBroken, text: "b: broken"},
		{name: "nil is early too", fail: func(context.Context) error { return nil }, text: "b: returned although"},
		{name: "panic", fail: func(context.Context) error { panic(errBroken) }, want: errBroken, text: "group_test.go"},
		{name: "goexit", fail: func(context.Context) error { runtime.Goexit(); return nil }, text: "b: its goroutine ended"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(t)
				a := s.Add(s.part("a", 0, 0))
				b := s.Add(component.Func("b", func(ctx context.Context) error {
					time.Sleep(time.Minute)
					s.note("b fails")
					return tt.fail(ctx)
				}, nil), component.After(a))
				s.Add(s.part("c", 0, time.Second), component.After(b))

				err := s.Run(t.Context())
				if err == nil || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("Run: %v, want it to contain %q", err, tt.text)
				}
				if tt.want != nil && !errors.Is(err, tt.want) {
					t.Errorf("Run: %v is not %v", err, tt.want)
				}
				// a, below the failed b, outlives c, above it.
				s.wantJournal("a runs", "c runs", "b fails", "c ends", "a ends")
				s.wantState("b", component.Failed)
			})
		})
	}
}

func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		begin := time.Now()
		var runs atomic.Int32
		var at []time.Duration
		s.Add(component.Func("flaky", func(ctx context.Context) error {
			at = append(at, time.Since(begin))
			if runs.Add(1) <= 4 {
				return errors.New("not yet")
			}
			<-ctx.Done()
			return nil
		}, func(context.Context) error {
			if runs.Load() <= 4 {
				return errors.New("cold")
			}
			return nil
		}), component.Restart(component.Backoff{Min: time.Second, Max: 4 * time.Second}))
		stop := s.run()
		synctest.Wait()
		s.wantState("flaky", component.Degraded)
		if got := s.status("flaky").Message; got != "restarting in 1s: not yet" {
			t.Errorf("message %q", got)
		}
		<-s.Ready()
		want := []time.Duration{0, 1 * time.Second, 3 * time.Second, 7 * time.Second, 11 * time.Second}
		if diff := cmp.Diff(want, at); diff != "" {
			t.Errorf("times of the runs -want +got:\n%s", diff)
		}
		if got := s.status("flaky").Restarts; got != 4 {
			t.Errorf("restarts = %d, want 4", got)
		}
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// TestStopDuringBackoff stops while a component is between two runs.
func TestStopDuringBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		s.Add(component.Func("flaky", func(context.Context) error { return errors.New("no") }, nil),
			component.Restart(component.Backoff{Min: time.Hour, Max: time.Hour}))
		stop := s.run()
		synctest.Wait()
		begin := time.Now()
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("the stop took %v", d)
		}
	})
}

func TestStopWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		a := s.Add(s.part("a", 0, 0))
		s.Add(s.part("stubborn", 0, time.Hour), component.After(a), component.StopWithin(3*time.Second))
		stop := s.run()
		<-s.Ready()
		begin := time.Now()
		err := stop()
		if d := time.Since(begin); d != 3*time.Second {
			t.Errorf("the stop took %v, want 3s", d)
		}
		if err == nil || err.Error() != "stubborn: did not stop within 3s" {
			t.Errorf("Run: %v", err)
		}
		s.wantState("stubborn", component.Failed)
		s.wantJournal("a runs", "stubborn runs", "a ends")
		time.Sleep(time.Hour) // Let it end: the bubble waits for every goroutine.
		s.wantState("stubborn", component.Failed)
	})
}

func TestErrorWhileStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		errDisk := errors.New("disk full")
		for _, name := range []string{"a", "b"} {
			s.Add(component.Func(name, func(ctx context.Context) error {
				<-ctx.Done()
				return errDisk
			}, nil))
		}
		stop := s.run()
		<-s.Ready()
		lines := strings.Split(stop().Error(), "\n")
		slices.Sort(lines)
		if diff := cmp.Diff([]string{"a: disk full", "b: disk full"}, lines); diff != "" {
			t.Errorf("Run: -want +got:\n%s", diff)
		}
	})
}

func TestTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		contexts := make(chan context.Context, 1)
		task := s.Task("prepare", func(ctx context.Context) error {
			contexts <- ctx
			time.Sleep(2 * time.Second)
			s.note("prepared")
			return nil
		})
		s.Add(s.part("user", 0, time.Second), component.After(task))
		stop := s.run()
		<-s.Ready()
		s.wantJournal("prepared", "user runs")
		s.wantState("prepare", component.Ready)
		if got := s.status("prepare").ReadyAfter; got != 2*time.Second {
			t.Errorf("ready after %v, want 2s", got)
		}
		taskCtx := <-contexts
		if taskCtx.Err() != nil {
			t.Error("the task's ctx has ended although its dependent runs")
		}
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if taskCtx.Err() == nil {
			t.Error("the task's ctx outlives the group")
		}
		s.wantState("prepare", component.Stopped)
	})
}

func TestTaskFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		task := s.Task("prepare", func(context.Context) error { return errors.New("no disk") })
		s.Add(s.part("user", 0, 0), component.After(task))
		if err := s.Run(t.Context()); err == nil || err.Error() != "prepare: no disk" {
			t.Errorf("Run: %v", err)
		}
		s.wantJournal()
		s.wantState("user", component.Stopped)
	})
}

func TestAddWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		a := s.Add(s.part("a", 0, 0))
		stop := s.run()
		<-s.Ready()
		s.Add(s.part("late", 0, 0), component.After(a))
		time.Sleep(time.Second)
		s.wantState("late", component.Ready)
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		s.wantJournal("a runs", "late runs", "late ends", "a ends")
		s.Add(s.part("too late", 0, 0))
		s.wantState("too late", component.Stopped)
		if err := s.Run(t.Context()); err == nil {
			t.Error("a second Run is not refused")
		}
	})
}

func TestLabelsAndCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		s.Add(component.Func("labelled", func(ctx context.Context) error {
			if got, _ := pprof.Label(ctx, "component"); got != "labelled" {
				t.Errorf("pprof label %q", got)
			}
			<-ctx.Done()
			return context.Cause(ctx)
		}, nil))
		stop := s.run()
		<-s.Ready()
		if err := stop(); err != nil {
			t.Errorf("Run: %v, want a component that returns its cause to have stopped well", err)
		}
	})
}
