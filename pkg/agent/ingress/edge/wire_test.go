package edge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

// TestSmuggling sends what two parsers may read in two ways; the backend notes every request that reaches it.
func TestSmuggling(t *testing.T) {
	seen := make(chan string, 100)
	w := start(t, Options{}, web(map[string]Backend{"b": serving(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		seen <- r.URL.Path
	})}, Route{Backends: to("b")}))
	const inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, raw := range map[string]string{
		"CL.TE":             "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n" + inner,
		"TE.CL":             "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\nConnection: close\r\n\r\n0\r\n\r\n" + inner,
		"TE with space":     "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + inner,
		"TE unknown":        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + inner,
		"two lengths":       "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 36\r\n\r\n" + inner,
		"bare LF":           "GET /x HTTP/1.1\nHost: a\nContent-Length: 36\r\nConnection: close\n\r\n\r\n" + inner,
		"CR in the header":  "GET /x HTTP/1.1\r\nHost: a\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n" + inner,
		"two hosts":         "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + inner,
		"h2c upgrade":       "GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
		"length hop by hop": "POST /x HTTP/1.1\r\nHost: a\r\nConnection: close, Content-Length\r\nContent-Length: 36\r\n\r\n" + inner,
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := w.dial()
			if _, err := io.WriteString(c, raw); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			answer, _ := io.ReadAll(c)
			for {
				select {
				case path := <-seen:
					if path == "/smuggled" {
						t.Errorf("the second request reached the backend; the client got:\n%s", answer)
					}
					continue
				case <-time.After(20 * time.Millisecond):
				}
				break
			}
		})
	}
}

func TestPipelining(t *testing.T) {
	w := start(t, Options{}, web(map[string]Backend{"b": serving(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, r.URL.Path+string(b))
	})}, Route{Backends: to("b")}))
	c, r := w.dial()
	// The third is net/http's, and what follows it is on the way already then.
	_, _ = io.WriteString(c, "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"+
		"POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nho\r\n0\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	for _, want := range []string{"/1", "/2hi", "/3ho", "/4"} {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		if b, _ := io.ReadAll(resp.Body); string(b) != want {
			t.Errorf("got %q, want %q", b, want)
		}
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after Connection: close: %v", err)
	}
}

// TestUpgrade speaks an echo protocol of its own after the 101, as a WebSocket would.
func TestUpgrade(t *testing.T) {
	b := serving(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Connection") != "Upgrade" || r.Header.Get("Upgrade") != "websocket" {
			w.WriteHeader(400)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello ")
		_, _ = io.Copy(c, rw)
	})
	w := start(t, Options{}, web(map[string]Backend{"b": b}, Route{Backends: to("b"), Timeouts: Timeouts{Request: 200 * time.Millisecond, Idle: 2 * time.Second}}))
	c, r := w.dial()
	_, _ = io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\nearly ")
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Sec-Websocket-Accept") != "x" || !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") {
		t.Fatalf("answer %+v, %v", resp, err)
	}
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
			t.Fatalf("got %q, %v; want %q", got, err, want)
		}
	}
	expect("hello early ")
	for i := range 5 {
		// Longer than Timeouts.Request in all: that one is for the answer.
		<-time.After(100 * time.Millisecond)
		fmt.Fprintf(c, "message %d\n", i)
		expect(fmt.Sprintf("message %d\n", i))
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
}

func TestInterimAndTrailers(t *testing.T) {
	b := serving(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("X-Sum", r.Trailer.Get("X-In")+"!")
	})
	w := start(t, Options{}, web(map[string]Backend{"b": b}, Route{Backends: to("b")}))
	for version, cl := range map[string]*http.Client{"1.1": client(t, nil), "2": client(t, h2c)} {
		for _, body := range []string{"", "long"} {
			hints := ""
			ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				hints += fmt.Sprint(code, h.Get("Link"))
				return nil
			}})
			r, _ := http.NewRequestWithContext(ctx, "GET", w.url("/"), http.NoBody)
			want := "!"
			if body != "" {
				r.Body, r.ContentLength, r.Trailer = io.NopCloser(strings.NewReader(body)), -1, http.Header{"X-In": {"sum"}}
				r.Method, want = "POST", "sum!"
			}
			resp, err := cl.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			if err != nil || string(got) != body || resp.Trailer.Get("X-Sum") != want || hints != "103</style.css>" {
				t.Errorf("HTTP/%s with body %q: %q, %v, trailer %v, hints %q", version, body, got, err, resp.Trailer, hints)
			}
		}
	}
}

func TestExpectContinue(t *testing.T) {
	w := start(t, Options{}, web(map[string]Backend{"b": serving(t, mirrorOf)}, Route{Backends: to("b")}, Route{Matches: at("/small"), Backends: to("b"), Policy: Policy{MaxBody: 1}}))
	c, r := w.dial()
	_, _ = io.WriteString(c, "PUT /small HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 413 {
		t.Errorf("too large: %+v, %v", resp, err)
	}
	c, r = w.dial()
	_, _ = io.WriteString(c, "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 100 {
		t.Fatalf("before the body: %+v, %v", resp, err)
	}
	_, _ = io.WriteString(c, "hello")
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("after the body: %+v, %v", resp, err)
	}
}

// raw is a backend that answers each connection with fixed bytes, and closes it.
func raw(t *testing.T, answer string) Backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.WriteString(c, answer)
			}
			_ = c.Close()
		}
	}()
	return Backend{Endpoints: []Endpoint{{netip.MustParseAddrPort(l.Addr().String())}}}
}

func TestBackendBreaks(t *testing.T) {
	w := start(t, Options{}, web(map[string]Backend{
		"nothing": raw(t, ""), "half head": raw(t, "HTTP/1.1 200 OK\r\nContent-"), "half body": raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
		"half chunk": raw(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf"), "rest": raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi and more"),
		"old": raw(t, "HTTP/1.0 200 OK\r\nX: a\r\n\r\nuntil the end"), "no HTTP": raw(t, "SSH-2.0\r\n\r\n"),
	}, Route{Matches: at("/nothing"), Backends: to("nothing")}, Route{Matches: at("/half-head"), Backends: to("half head")}, Route{Matches: at("/half-body"), Backends: to("half body")},
		Route{Matches: at("/half-chunk"), Backends: to("half chunk")}, Route{Matches: at("/rest"), Backends: to("rest")}, Route{Matches: at("/old"), Backends: to("old")}, Route{Matches: at("/ssh"), Backends: to("no HTTP")}))
	for version, cl := range map[string]*http.Client{"1.1": client(t, nil), "2": client(t, h2c)} {
		for path, want := range map[string]string{
			"/nothing": "502", "/half-head": "502", "/half-body": "cut", "/half-chunk": "cut", "/rest": "200 hi", "/old": "200 until the end", "/ssh": "502",
		} {
			for range 2 {
				resp, err := cl.Get(w.url(path))
				if err != nil {
					t.Fatalf("%s over HTTP/%s: %v", path, version, err)
				}
				b, err := io.ReadAll(resp.Body)
				got := fmt.Sprint(resp.StatusCode, " ", string(b))
				if err != nil {
					got = "cut"
				}
				if resp.StatusCode == 502 {
					got = "502"
				}
				if got != want {
					t.Errorf("%s over HTTP/%s: %q, %v; want %q", path, version, got, err, want)
				}
			}
		}
	}
}
