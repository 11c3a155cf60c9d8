package edge

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestReload changes everything that can change while clients go on asking over the connections they have.
func TestReload(t *testing.T) {
	ca := newAuthority(t)
	certs := []*tls.Certificate{ca.sign(t, "web.org"), ca.sign(t, "web.org")}
	a, b := serving(t, mirrorOf), serving(t, mirrorOf)
	port, sport := freePort(t), freePort(t)
	config := func(i int) Config {
		routes := []VirtualHost{{Routes: []Route{{Name: fmt.Sprint("r", i), Backends: to("b"), Filters: []Filter{{ResponseHeaders: &HeaderEdit{Set: []Header{{"Round", fmt.Sprint(i)}}}}}}}}}
		c := Config{
			Listeners: []Listener{
				{Name: "web", Address: "127.0.0.1", Port: port, Hosts: routes},
				{Name: "tls", Address: "127.0.0.1", Port: sport, Protocol: HTTPS, Hostname: []string{"", "web.org"}[i%2], Certificates: certs[i%2 : i%2+1], Hosts: routes},
			},
			Backends: map[string]Backend{"b": []Backend{a, b}[i%2]},
		}
		if i%3 == 0 {
			c.Listeners = append(c.Listeners, Listener{Name: "other", Address: "127.0.0.1"})
		}
		return c
	}
	w := start(t, Options{}, config(0))
	var asked atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 12 {
		change := []func(*http.Transport){func(*http.Transport) {}, h2c, w.secure("tls", &tls.Config{RootCAs: ca.pool})}[i%3]
		url := []string{w.url("/"), w.url("/"), "https://web.org/"}[i%3]
		cl := client(t, func(tr *http.Transport) { change(tr) })
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r, _ := http.NewRequest("POST", url, strings.NewReader("body"))
				r.GetBody = nil // or the client would hide what fails
				resp, err := cl.Do(r)
				if err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if err != nil || resp.StatusCode != 200 {
					t.Errorf("client %d: %s, %v", i, resp.Status, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	begin, rounds := time.Now(), 0
	for ; time.Since(begin) < 2*time.Second; rounds++ {
		w.apply(config(rounds))
		w.SetEndpoints("b", []Backend{b, a}[rounds%2].Endpoints)
	}
	close(stop)
	wg.Wait()
	t.Logf("%d requests under %d changes", asked.Load(), rounds)
	if asked.Load() < 100 || rounds < 100 {
		t.Errorf("%d requests under %d changes say nothing", asked.Load(), rounds)
	}
}

// hanging is a backend whose answers wait for release after their first half.
func hanging(t *testing.T) (b Backend, begun, release chan struct{}) {
	begun, release = make(chan struct{}, 10), make(chan struct{})
	return serving(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "first ")
		_ = http.NewResponseController(w).Flush()
		begun <- struct{}{}
		<-release
		_, _ = io.WriteString(w, "second")
	}), begun, release
}

func TestDrain(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*world, Config)
	}{
		{"endpoint removed", func(w *world, _ Config) { w.SetEndpoints("b", nil) }},
		{"backend removed", func(w *world, c Config) { c.Backends = nil; w.apply(c) }},
		{"listener removed", func(w *world, _ Config) { w.apply(Config{}) }},
		{"the end", func(w *world, _ Config) { go w.stop() }},
	} {
		for version, change := range map[string]func(*http.Transport){"1.1": nil, "2": h2c} {
			t.Run(c.name+" over HTTP/"+version, func(t *testing.T) {
				b, begun, release := hanging(t)
				conf := web(map[string]Backend{"b": b}, Route{Backends: to("b")})
				w := start(t, Options{}, conf)
				url := w.url("/")
				answer := make(chan string, 1)
				go func() {
					resp, err := client(t, change).Get(url)
					if err != nil {
						answer <- err.Error()
						return
					}
					body, err := io.ReadAll(resp.Body)
					answer <- fmt.Sprint(resp.StatusCode, " ", string(body), " ", err)
				}()
				<-begun
				c.do(w, conf)
				<-time.After(50 * time.Millisecond)
				close(release)
				select {
				case got := <-answer:
					if got != "200 first second <nil>" {
						t.Errorf("the client got %q", got)
					}
				case <-time.After(10 * time.Second):
					t.Error("the request does not end")
				}
				w.stop()
			})
		}
	}
}

// TestDrainEnds has a client that would never let Run end.
func TestDrainEnds(t *testing.T) {
	b, begun, release := hanging(t)
	defer close(release)
	w := start(t, Options{Drain: 300 * time.Millisecond}, web(map[string]Backend{"b": b}, Route{Backends: to("b")}))
	for _, change := range []func(*http.Transport){nil, h2c} {
		go func() {
			if resp, err := client(t, change).Get(w.url("/")); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		}()
		<-begun
	}
	begin := time.Now()
	w.stop()
	if took := time.Since(begin); took < 250*time.Millisecond || took > 3*time.Second {
		t.Errorf("Run ended after %s", took)
	}
}

// TestClientGone wants the backend to be told.
func TestClientGone(t *testing.T) {
	gone := make(chan string, 10)
	begun := make(chan struct{}, 10)
	b := serving(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		begun <- struct{}{}
		select {
		case <-r.Context().Done():
			gone <- r.Proto
		case <-time.After(10 * time.Second):
		}
	})
	c := b
	c.Protocol = BackendH2C
	w := start(t, Options{}, web(map[string]Backend{"b": b, "c": c}, Route{Backends: to("b")}, Route{Matches: at("/h2"), Backends: to("c")}))
	for _, change := range []func(*http.Transport){nil, h2c} {
		for _, path := range []string{"/", "/h2"} {
			ctx, cancel := context.WithCancel(context.Background())
			r, _ := http.NewRequestWithContext(ctx, "GET", w.url(path), nil)
			go func() { <-begun; cancel() }()
			if resp, err := client(t, change).Do(r); err == nil {
				_ = resp.Body.Close()
				t.Error("an answer came")
			}
			cancel()
			select {
			case <-gone:
			case <-time.After(5 * time.Second):
				t.Errorf("%s: the backend was not told that the client went away", path)
			}
		}
	}
}
