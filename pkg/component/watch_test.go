package component_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/component"
)

func untilDone(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func TestPollIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		begin := time.Now()
		var at []time.Duration
		s.Add(component.Func("a", untilDone, func(context.Context) error {
			at = append(at, time.Since(begin))
			if time.Since(begin) < 10*time.Second {
				return errors.New("cold")
			}
			return nil
		}))
		stop := s.run()
		time.Sleep(21 * time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		ready := 0
		for i, now := range at[1:] {
			last := at[i]
			want := min(max(last/20, 5*time.Millisecond), 200*time.Millisecond)
			if last >= 10*time.Second {
				want = 5 * time.Second
				ready++
			}
			if now-last != want {
				t.Errorf("polls at %v and %v, want %v between", last, now, want)
			}
		}
		if len(at) > 150 || ready != 2 {
			t.Errorf("%d polls, %d of them after it was ready; want at most 150, and 2", len(at), ready)
		}
	})
}

func TestWaitingIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		s.Add(component.Func("kube-apiserver", untilDone, func(context.Context) error {
			return errors.New("/readyz 500: etcd not ready")
		}))
		stop := s.run()
		count := func() int {
			return strings.Count(s.logged(), `msg="not ready yet" component=kube-apiserver missing="/readyz 500: etcd not ready"`)
		}
		for _, want := range []struct {
			after time.Duration
			lines int
		}{{900 * time.Millisecond, 0}, {400 * time.Millisecond, 1}, {9 * time.Second, 1}, {time.Second, 2}, {10 * time.Second, 3}} {
			time.Sleep(want.after)
			if got := count(); got != want.lines {
				t.Errorf("%d lines %v later, want %d:\n%s", got, want.after, want.lines, s.logged())
			}
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDegradedAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		var sick atomic.Bool
		a := s.Add(component.Func("a", untilDone, func(context.Context) error {
			if sick.Load() {
				return errors.New("disk is slow")
			}
			return nil
		}))
		s.Add(s.part("b", 0, 0), component.After(a))
		stop := s.run()
		<-s.Ready()
		sick.Store(true)
		time.Sleep(7 * time.Second)
		s.wantState("a", component.Degraded)
		s.wantState("b", component.Ready)
		if got := s.status("a").Message; got != "disk is slow" {
			t.Errorf("message %q", got)
		}
		sick.Store(false)
		time.Sleep(2 * time.Second)
		s.wantState("a", component.Ready)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		var states []string
		for _, e := range s.status("a").Events {
			states = append(states, e.State.String())
		}
		want := []string{"waiting", "starting", "ready", "degraded", "ready", "stopping", "stopped"}
		if diff := cmp.Diff(want, states); diff != "" {
			t.Errorf("events -want +got:\n%s", diff)
		}
	})
}

// TestLateOnce fails every other look: that is nothing to talk about.
func TestLateOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		looks := 0
		s.Add(component.Func("a", untilDone, func(context.Context) error {
			if looks++; looks%2 == 0 {
				return errors.New("i/o timeout")
			}
			return nil
		}))
		stop := s.run()
		<-s.Ready()
		for range 60 {
			time.Sleep(time.Second)
			s.wantState("a", component.Ready)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if looks < 20 || strings.Contains(s.logged(), "any more") {
			t.Errorf("%d looks, the log:\n%s", looks, s.logged())
		}
	})
}

func TestReadyPanicsOrHangs(t *testing.T) {
	tests := []struct {
		name  string
		check func(context.Context) error
		want  string
	}{
		{name: "panic", check: func(context.Context) error { var p *int; *p = 1; return nil }, want: "readiness check panicked: "},
		{name: "hang", check: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, want: "deadline exceeded"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(t)
				s.Add(component.Func("a", untilDone, tt.check))
				stop := s.run()
				time.Sleep(11 * time.Second)
				synctest.Wait()
				if got := s.status("a").Message; !strings.Contains(got, tt.want) {
					t.Errorf("message %q, want it to contain %q", got, tt.want)
				}
				if err := stop(); err != nil {
					t.Errorf("Run: %v", err)
				}
			})
		})
	}
}

// TestEventsAreBounded lets a component flap for an hour.
func TestEventsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		n := 0
		s.Add(component.Func("a", untilDone, func(context.Context) error {
			if n++; n%4 >= 2 {
				return errors.New("flap")
			}
			return nil
		}))
		stop := s.run()
		time.Sleep(time.Hour)
		events := s.status("a").Events
		if len(events) != 16 {
			t.Errorf("%d events are kept, want 16", len(events))
		}
		if age := time.Since(events[len(events)-1].Time); age > 10*time.Second {
			t.Errorf("the newest event is %v old", age)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestStatusJSON(t *testing.T) {
	want := component.Status{
		Name: "a", State: component.Degraded, Since: time.Unix(1e9, 0).UTC(), Message: "why",
		After:  []string{"b"},
		Events: []component.Event{{Time: time.Unix(1e9, 0).UTC(), State: component.Degraded, Message: "why"}},
	}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	const wantText = `{"name":"a","state":"degraded","since":"2001-09-09T01:46:40Z","message":"why","after":["b"],` +
		`"events":[{"time":"2001-09-09T01:46:40Z","state":"degraded","message":"why"}]}`
	if diff := cmp.Diff(wantText, string(text)); diff != "" {
		t.Errorf("JSON -want +got:\n%s", diff)
	}
	var got component.Status
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("round trip -want +got:\n%s", diff)
	}
	if err := json.Unmarshal([]byte(`{"state":"sleepy"}`), &got); err == nil {
		t.Error("an unknown state is accepted")
	}
}

// TestChanged wakes who waits for news, and only then.
func TestChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		missing := atomic.Pointer[error]{}
		cold := errors.New("cold")
		missing.Store(&cold)
		s.Add(component.Func("a", untilDone, func(context.Context) error { return *missing.Load() }))
		stop := s.run()
		defer func() {
			if err := stop(); err != nil {
				t.Error(err)
			}
		}()
		time.Sleep(time.Second)
		news := s.Changed()
		time.Sleep(time.Minute)
		select {
		case <-news:
			t.Error("news although the same is missing")
		default:
		}
		warm := errors.New("warm")
		missing.Store(&warm)
		time.Sleep(time.Minute)
		select {
		case <-news:
		default:
			t.Error("no news although something else is missing")
		}
	})
}
