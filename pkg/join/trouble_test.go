package join

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"skiff/pkg/pki"
)

func TestObstacles(t *testing.T) {
	html := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>log in</html>")) })
	status := func(code int, header ...string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for _, h := range header {
				name, value, _ := strings.Cut(h, ": ")
				w.Header().Set(name, value)
			}
			w.WriteHeader(code)
		})
	}
	secure := func(h http.Handler) func(*testing.T) string {
		return func(t *testing.T) string {
			s := httptest.NewTLSServer(h)
			t.Cleanup(s.Close)
			return s.URL
		}
	}
	tests := []struct {
		name  string
		serve func(*testing.T) string
		want  Obstacle
	}{
		{"no such name", func(*testing.T) string { return "https://server.invalid:6443" }, NoSuchName},
		{"nobody listens", func(t *testing.T) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			return "https://" + l.Addr().String()
		}, NobodyThere},
		{"nobody answers", func(t *testing.T) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return "https://" + l.Addr().String()
		}, NoAnswer},
		{"no TLS", func(t *testing.T) string {
			s := httptest.NewServer(html)
			t.Cleanup(s.Close)
			return "https://" + s.Listener.Addr().String()
		}, NotSkiff},
		{"a portal", secure(html), NotSkiff},
		{"another server", secure(status(http.StatusNotFound)), NotSkiff},
		{"a redirect", secure(status(http.StatusFound, "Location: https://elsewhere.invalid/")), InBetween},
		{"a gateway", secure(status(http.StatusBadGateway)), InBetween},
		{"a proxy", secure(status(http.StatusForbidden, "Via: 1.1 squid")), InBetween},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			c := w.client()
			c.Transport, c.URL = nil, tt.serve(t)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, err := c.Join(ctx, n1)
			if u, ok := errors.AsType[*UnreachableError](err); !ok || u.Obstacle != tt.want {
				t.Errorf("want %s: %v", tt.want, err)
			}
			if err != nil && strings.Contains(err.Error(), w.token.Secret.Reveal()) {
				t.Errorf("the error has the token: %v", err)
			}
		})
	}
}

func TestClockSkew(t *testing.T) {
	for _, tt := range []struct {
		ahead time.Duration
		fails bool
	}{
		// Certificates begin before any clock (pkg/pki), so this one joins.
		{-20 * 365 * 24 * time.Hour, false},
		{5 * 365 * 24 * time.Hour, true},
	} {
		w := newWorld(t)
		c := w.remote()
		// The test's server sends the Date of the real clock.
		w.now = time.Now()
		if _, err := w.store.Ensure(pki.Tree, pki.Facts{NodeName: "s1"}); err != nil {
			t.Fatal(err)
		}
		var log strings.Builder
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		c.Clock = func() time.Time { return time.Now().Add(tt.ahead) }
		_, err := c.Join(t.Context(), n1)
		if !tt.fails {
			if err != nil || !strings.Contains(log.String(), "clocks of node and server differ") {
				t.Errorf("ahead %s: %v\n%s", tt.ahead, err, &log)
			}
			continue
		}
		clock, ok := errors.AsType[*ClockError](err)
		if !ok {
			t.Errorf("ahead %s: %v", tt.ahead, err)
			continue
		}
		if got := clock.Node.Sub(clock.Server); (got-tt.ahead).Abs() > time.Minute || !strings.Contains(err.Error(), "days apart") {
			t.Errorf("ahead %s: says %s: %v", tt.ahead, got, err)
		}
	}
}
