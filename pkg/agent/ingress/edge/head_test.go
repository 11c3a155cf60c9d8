package edge

import (
	"bufio"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// refused are heads that net/http shall judge.
var refused = map[string]string{
	"two lengths":            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
	"length with sign":       "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
	"length as list":         "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
	"length of nothing":      "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n",
	"negative length":        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
	"chunked":                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
	"both":                   "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
	"space before the colon": "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
	"folded line":            "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
	"bare LF":                "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
	"bare CR":                "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
	"NUL":                    "GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
	"no host":                "GET / HTTP/1.1\r\nX: a\r\n\r\n",
	"two hosts":              "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
	"HTTP/1.0":               "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
	"absolute form":          "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
	"asterisk":               "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
	"connect":                "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
	"two slashes":            "GET //b/ HTTP/1.1\r\nHost: a\r\n\r\n",
	"bad escape":             "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
	"fragment":               "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
	"two spaces":             "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
	"space in the target":    "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
	"upgrade":                "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
	"expect":                 "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
	"connection names":       "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X\r\nX: a\r\n\r\n",
	"trailers wanted":        "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
	"hop by hop":             "GET / HTTP/1.1\r\nHost: a\r\nKeep-Alive: timeout=5\r\n\r\n",
	"no name":                "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
	"no colon":               "GET / HTTP/1.1\r\nHost: a\r\nfoo\r\n\r\n",
	"many lines":             "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: a\r\n", 70) + "\r\n",
}

var accepted = []string{
	"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /a/b?c=d&e HTTP/1.1\r\nhost: Example.com:8080\r\nuser-agent:  x \r\nACCEPT: */*\r\n\r\n",
	"POST /a%2Fb/%c3%a9?x=%zz HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nX: 1\r\nx: 2\r\nX-Empty:\r\n\r\n",
	"GET /? HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
	"DELETE /a|b\"c HTTP/1.1\r\nHost: [::1]:80\r\nCookie: a=b; c=d\r\nX: \xe9\r\n\r\n",
	"GET /a/../b;c=d:@!*'() HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n",
}

func parsed(head string) (*requestHead, bool) {
	h := &requestHead{header: http.Header{}, url: &url.URL{}}
	return h, h.parse([]byte(head))
}

func TestParseRefuses(t *testing.T) {
	for name, head := range refused {
		t.Run(name, func(t *testing.T) {
			if h, ok := parsed(head); ok {
				t.Errorf("parse accepts it: %+v", h)
			}
		})
	}
}

// same compares what parse makes of a head with what net/http does.
func same(t *testing.T, head string) {
	t.Helper()
	h, ok := parsed(head)
	if !ok {
		return
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
	if err != nil {
		t.Fatalf("parse accepts %q, net/http does not: %v", head, err)
	}
	r.Header.Del("Connection")
	want := requestHead{method: r.Method, target: r.RequestURI, host: r.Host, length: r.ContentLength, close: r.Close, header: r.Header, url: r.URL}
	got := *h
	got.values = nil
	if d := cmp.Diff(want, got, cmp.AllowUnexported(requestHead{})); d != "" {
		t.Errorf("%q is read in two ways (-net/http +parse):\n%s", head, d)
	}
}

func TestParseAgrees(t *testing.T) {
	for _, head := range accepted {
		if _, ok := parsed(head); !ok {
			t.Errorf("parse refuses %q", head)
		}
		same(t, head)
	}
}

func FuzzParse(f *testing.F) {
	for _, head := range accepted {
		f.Add(head)
	}
	for _, head := range refused {
		f.Add(head)
	}
	f.Fuzz(func(t *testing.T, head string) {
		if i := strings.Index(head, "\r\n\r\n"); i >= 0 {
			same(t, head[:i+4])
		}
	})
}

func TestParseAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		method, answer string
		simple         bool
		body           string
	}{
		"sized":         {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a\r\n\r\nhi", true, "hi"},
		"empty":         {"GET", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", true, ""},
		"head":          {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", true, ""},
		"not modified":  {"GET", "HTTP/1.1 304 Not Modified\r\nEtag: \"a\"\r\n\r\n", true, ""},
		"until the end": {"GET", "HTTP/1.1 200 OK\r\n\r\nhi", false, ""},
		"chunked":       {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false, ""},
		"two lengths":   {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi", false, ""},
		"interim":       {"GET", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, ""},
		"half a head":   {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", false, ""},
		"old":           {"GET", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false, ""},
		"not HTTP":      {"GET", "SSH-2.0-x\r\n\r\n", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := bufio.NewReader(strings.NewReader(c.answer))
			_, _ = r.Peek(1)
			req := &http.Request{Method: c.method}
			resp := parseAnswer(r, req, &answerMemory{header: http.Header{}})
			if resp == nil {
				if left, _ := io.ReadAll(r); c.simple || string(left) != c.answer {
					t.Errorf("refused, with %q left", left)
				}
				return
			}
			if !c.simple {
				t.Fatalf("accepted: %+v", resp)
			}
			want, err := http.ReadResponse(bufio.NewReader(strings.NewReader(c.answer)), req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			want.Header.Del("Connection")
			if d := cmp.Diff(want.Header, resp.Header); d != "" || resp.StatusCode != want.StatusCode || resp.ContentLength != want.ContentLength || resp.Close != want.Close || string(body) != c.body {
				t.Errorf("got %+v with body %q, net/http %+v\n%s", resp, body, want, d)
			}
		})
	}
}
