package lb

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	discoveryv1 "k8s.io/api/discovery/v1"
)

func names(list []*server) []string {
	var out []string
	for _, s := range list {
		out = append(out, s.address)
	}
	return out
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool("a:1", []string{"b:1", "a:1", "c:1"})
		check := func(what string, want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, names(p.order(time.Now()))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		at := func(address string) *server {
			for _, s := range p.order(time.Now()) {
				if s.address == address {
					return s
				}
			}
			t.Fatalf("no server %s", address)
			return nil
		}
		check("at first the given one", "a:1", "b:1", "c:1")
		p.good(at("b:1"), time.Now())
		check("then the good one", "b:1", "a:1", "c:1")
		p.fail(at("b:1"), time.Now())
		check("a failed one comes last", "a:1", "c:1", "b:1")
		for range 5 {
			p.fail(at("a:1"), time.Now())
		}
		check("and among them the one whose turn is next", "c:1", "b:1", "a:1")
		time.Sleep(2 * time.Second) // more than the first pause with its jitter
		check("until its time is over", "b:1", "c:1", "a:1")
		time.Sleep(time.Minute)
		check("all of them", "b:1", "a:1", "c:1")

		b, c := at("b:1"), at("c:1")
		if p.set([]string{"b:1", "c:1"}) {
			t.Error("the given server is in the list anyway, and it counts as news")
		}
		if !p.set([]string{"c:1", "d:1"}) {
			t.Error("another list is no news")
		}
		check("what is gone is not asked", "a:1", "c:1", "d:1")
		if at("c:1") != c {
			t.Error("what is known of a server is lost")
		}
		p.good(b, time.Now())
		check("also if it answers at last", "a:1", "c:1", "d:1")
	})
}

// fakeNet is a network in which each address answers in its own time.
type fakeNet map[string]struct {
	after time.Duration
	err   error
}

func (n fakeNet) dial(ctx context.Context, address string) (net.Conn, error) {
	way := n[address]
	timer := time.NewTimer(way.after)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
	}
	if way.err != nil {
		return nil, way.err
	}
	c, _ := net.Pipe()
	return c, nil
}

// TestWatchedAgain restarts a server so quickly that only its watcher notices.
func TestWatchedAgain(t *testing.T) {
	returned := 0
	b := &Balancer{o: Options{Returned: func() { returned++ }}, pool: newPool("a:1", nil)}
	for i, step := range []struct {
		server string
		by     bool
		want   int
	}{{"a:1", true, 0}, {"a:1", false, 0}, {"a:1", true, 1}, {"a:1", true, 1}, {"b:1", false, 1}, {"b:1", true, 1}} {
		if b.Watched(step.server, step.by); returned != step.want {
			t.Errorf("step %d: Returned was called %d times, want %d", i, returned, step.want)
		}
	}
}

func TestDial(t *testing.T) {
	silent := time.Hour
	tests := []struct {
		name  string
		net   fakeNet
		want  string
		after time.Duration
	}{
		{"the first", fakeNet{"a:1": {}, "b:1": {}, "c:1": {}}, "a:1", 0},
		{"the next at once if one refuses", fakeNet{"a:1": {err: unix.ECONNREFUSED}, "b:1": {}, "c:1": {}}, "b:1", 0},
		{"the next soon if one is silent", fakeNet{"a:1": {after: silent}, "b:1": {}, "c:1": {}}, "b:1", stagger},
		{"two are silent", fakeNet{"a:1": {after: silent}, "b:1": {after: silent}, "c:1": {}}, "c:1", 2 * stagger},
		{"a slow one is better than none", fakeNet{"a:1": {after: 2 * time.Second}, "b:1": {after: silent}, "c:1": {err: unix.ECONNREFUSED}}, "a:1", 2 * time.Second},
		{"none", fakeNet{"a:1": {err: unix.ECONNREFUSED}, "b:1": {after: time.Second, err: unix.EHOSTUNREACH}, "c:1": {err: unix.ECONNREFUSED}}, "", time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := New(Options{Given: "a:1", File: filepath.Join(t.TempDir(), "none"), Notes: &notes{}, Logger: slog.New(slog.DiscardHandler)})
				b.pool.set([]string{"b:1", "c:1"})
				b.dialer = tt.net.dial
				begin := time.Now()
				c, s, err := b.dial(t.Context())
				if took := time.Since(begin); took != tt.after {
					t.Errorf("it took %s, want %s", took, tt.after)
				}
				if err != nil {
					if tt.want != "" {
						t.Error(err)
					}
					return
				}
				_ = c.Close()
				if s.address != tt.want {
					t.Errorf("connected with %s, want %s", s.address, tt.want)
				}
			})
		})
	}
}

// A client waits for a server that was there a moment ago, but not longer than
// it would wait for an answer itself.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{Given: "a:1", File: filepath.Join(t.TempDir(), "none"), Notes: &notes{}, Logger: slog.New(slog.DiscardHandler)})
		way := fakeNet{"a:1": {}}
		b.dialer = func(ctx context.Context, address string) (net.Conn, error) { return way.dial(ctx, address) }
		c, _, err := b.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		way = fakeNet{"a:1": {err: unix.ECONNREFUSED}}
		begin := time.Now()
		if _, _, err = b.dial(t.Context()); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("dial: %v", err)
		}
		if took := time.Since(begin); took < holdFor/2 || took > holdFor {
			t.Errorf("the client was held for %s", took)
		}
		time.Sleep(holdAfter)
		begin = time.Now()
		if _, _, err = b.dial(t.Context()); err == nil || time.Since(begin) != 0 {
			t.Errorf("the client was held for %s by a server that is long gone: %v", time.Since(begin), err)
		}
	})
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	tests := []struct {
		name, content string
		want          []string
		bad           bool
	}{
		{name: "good", content: `{"servers":["192.0.2.1:6443","[2001:db8::1]:6443","192.0.2.1:6443"]}`, want: []string{"192.0.2.1:6443", "[2001:db8::1]:6443"}},
		{name: "nonsense in it", content: `{"servers":["", ":6443", "a:b", "host:70000", "name:1"]}`, want: []string{"name:1"}},
		{name: "empty", content: "", bad: true},
		{name: "cut off", content: `{"servers":["192.0.2.1`, bad: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(dir, tt.name)
			if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := load(file)
			if (err != nil) != tt.bad {
				t.Errorf("load: %v", err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			b := New(Options{Given: "g:1", File: file, Notes: &notes{}, Logger: slog.New(slog.DiscardHandler)})
			if all, _ := b.Servers(); all[0] != "g:1" {
				t.Errorf("servers: %q", all)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	yes, no, https, other := true, false, "https", "other"
	port := int32(6443)
	endpoint := func(ready *bool, addrs ...string) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: addrs, Conditions: discoveryv1.EndpointConditions{Ready: ready}}
	}
	list := []any{
		&discoveryv1.EndpointSlice{
			Ports:     []discoveryv1.EndpointPort{{Name: &https, Port: &port}, {Name: &other, Port: &port}, {Name: &https}},
			Endpoints: []discoveryv1.Endpoint{endpoint(&yes, "192.0.2.2"), endpoint(&no, "192.0.2.3"), endpoint(nil, "192.0.2.1")},
		},
		&discoveryv1.EndpointSlice{
			Ports:     []discoveryv1.EndpointPort{{Name: &https, Port: &port}},
			Endpoints: []discoveryv1.Endpoint{endpoint(&yes, "2001:db8::1"), endpoint(&yes, "192.0.2.2")},
		},
	}
	want := []string{"192.0.2.1:6443", "192.0.2.2:6443", "[2001:db8::1]:6443"}
	if diff := cmp.Diff(want, addresses(list)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
