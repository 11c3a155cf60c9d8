package front

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"skiff/pkg/join"
)

func quietFront() *Front { return New(Options{Logger: slog.New(slog.DiscardHandler)}) }

func TestRoute(t *testing.T) {
	f := quietFront()
	calls := 0
	f.Add(Route{
		Path: "/x", Methods: []string{http.MethodPost}, Rate: 1, Burst: 20, InFlight: 1, Body: 4,
		Who: Access{Name: "friends", Check: func(r *http.Request) error {
			if r.Header.Get("Friend") == "" {
				return join.Refuse(join.CodeForbidden, "strangers may not")
			}
			return nil
		}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls++
			_, err := io.ReadAll(r.Body)
			if _, large := errors.AsType[*http.MaxBytesError](err); large {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
			}
		}),
	})
	tests := []struct {
		name, method, body, friend string
		status, calls              int
	}{
		{"good", http.MethodPost, "abcd", "yes", http.StatusOK, 1},
		{"method", http.MethodGet, "", "yes", http.StatusMethodNotAllowed, 0},
		{"stranger", http.MethodPost, "", "", http.StatusForbidden, 0},
		{"large", http.MethodPost, "abcde", "yes", http.StatusRequestEntityTooLarge, 1},
	}
	for _, tt := range tests {
		calls = 0
		r := httptest.NewRequest(tt.method, "/x", strings.NewReader(tt.body))
		r.Header.Set("Friend", tt.friend)
		rec := httptest.NewRecorder()
		f.Handler().ServeHTTP(rec, r)
		if rec.Code != tt.status || calls != tt.calls {
			t.Errorf("%s: %d after %d calls, want %d after %d: %s", tt.name, rec.Code, calls, tt.status, tt.calls, rec.Body)
		}
	}
}

func TestRouteRate(t *testing.T) {
	f := quietFront()
	f.Add(Route{Path: "/x", Methods: []string{http.MethodGet}, Rate: 0.001, Burst: 3, Handler: f.Ping()})
	get := func(remote string) int {
		r := httptest.NewRequest(http.MethodGet, "/x", nil)
		r.RemoteAddr = remote
		rec := httptest.NewRecorder()
		f.Handler().ServeHTTP(rec, r)
		if rec.Code == http.StatusTooManyRequests && (rec.Header().Get("Retry-After") == "" || !strings.Contains(rec.Body.String(), `"busy"`)) {
			t.Errorf("Retry-After %q, %s", rec.Header().Get("Retry-After"), rec.Body)
		}
		return rec.Code
	}
	for _, tt := range []struct {
		remote string
		want   int
	}{
		{"192.0.2.1:1", 200},
		{"192.0.2.1:2", 200},
		{"[::ffff:192.0.2.1]:3", 200},
		{"192.0.2.1:4", 429},
		{"192.0.2.2:1", 200},
		{"[2001:db8::1]:1", 200},
		{"[2001:db8::2]:1", 200},
		{"[2001:db8::3]:1", 200},
		{"[2001:db8::4]:1", 429},
		{"[2001:db8:0:1::4]:1", 200},
	} {
		if got := get(tt.remote); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.remote, got, tt.want)
		}
	}
	for range 10 { // This process itself is not counted.
		resp, err := join.InProcess(f.Handler()).RoundTrip(httptest.NewRequest(http.MethodGet, "/x", nil))
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v", resp, err)
		}
	}
}

func TestRouteInFlight(t *testing.T) {
	f := quietFront()
	in, out := make(chan struct{}), make(chan struct{})
	f.Add(Route{Path: "/x", Methods: []string{http.MethodGet}, Rate: 100, Burst: 100, InFlight: 2, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		in <- struct{}{}
		<-out
	})})
	get := func() int {
		rec := httptest.NewRecorder()
		f.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/x", nil))
		return rec.Code
	}
	done := make(chan int, 2)
	for range 2 {
		go func() { done <- get() }()
		<-in
	}
	if got := get(); got != http.StatusTooManyRequests {
		t.Errorf("third at once: %d", got)
	}
	close(out)
	for range 2 {
		if got := <-done; got != http.StatusOK {
			t.Errorf("one of the first: %d", got)
		}
	}
	go func() { <-in }()
	if got := get(); got != http.StatusOK {
		t.Errorf("afterwards: %d", got)
	}
}

func TestNothingThere(t *testing.T) {
	rec := httptest.NewRecorder()
	quietFront().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/v1-skiff/none", nil))
	if rec.Code != http.StatusNotFound {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}
