package edge

import (
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/bcrypt"
)

// TestAnswers asks one server for many routes, over both versions of HTTP.
func TestAnswers(t *testing.T) {
	secret, err := bcrypt.GenerateFromPassword([]byte("open"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	prefix := func(v string) *PathEdit { return &PathEdit{PathReplacePrefix, v} }
	set := func(n, v string) *HeaderEdit { return &HeaderEdit{Set: []Header{{n, v}}} }
	w := start(t, Options{Challenge: func(host, token string) (string, bool) { return host + " " + token, token == "known" }}, web(
		map[string]Backend{
			"mirror": serving(t, mirrorOf), "none": {}, "gone": {Endpoints: []Endpoint{{netip.MustParseAddrPort("127.0.0.1:1")}}},
			"host": func() Backend { b := serving(t, mirrorOf); b.HostRewrite = "inside"; return b }(),
		},
		Route{Name: "plain", Matches: at("/plain"), Backends: to("mirror")},
		Route{Name: "edit", Matches: at("/edit"), Backends: to("mirror"), Filters: []Filter{
			{RequestHeaders: &HeaderEdit{Set: []Header{{"x-a", "set"}, {"host", "edited"}}, Add: []Header{{"x-b", "more"}}, Remove: []string{"x-c"}}},
			{ResponseHeaders: &HeaderEdit{Set: []Header{{"X-Answer", "1"}}, Remove: []string{"Content-Type"}}},
		}},
		Route{Name: "redirect", Matches: at("/old"), Filters: []Filter{{Redirect: &Redirect{Scheme: "https", Path: prefix("/new"), Status: 301}}}},
		Route{Name: "rewrite", Matches: at("/rw"), Backends: to("mirror"), Filters: []Filter{{Rewrite: &Rewrite{Hostname: "other", Path: prefix("/")}}}},
		Route{Name: "share filter", Matches: at("/share"), Backends: []WeightedBackend{{Backend: "mirror", Weight: 1, Filters: []Filter{{RequestHeaders: set("X-Share", "1")}}}}},
		Route{Name: "upstream host", Matches: at("/host"), Backends: to("host")},
		Route{Name: "no backend", Matches: at("/500")},
		Route{Name: "weight 0", Matches: at("/zero"), Backends: []WeightedBackend{{Backend: "mirror"}}},
		Route{Name: "missing", Matches: at("/missing"), Backends: []WeightedBackend{{Backend: "no such", Weight: 1, Status: 503}}},
		Route{Name: "no endpoint", Matches: at("/none"), Backends: to("none")},
		Route{Name: "refused", Matches: at("/gone"), Backends: to("gone")},
		Route{Name: "auth", Matches: at("/auth"), Backends: to("mirror"), Policy: Policy{BasicAuth: &BasicAuth{Realm: "shop", Users: map[string]string{"u": string(secret)}}}},
		Route{Name: "small", Matches: at("/small"), Backends: to("mirror"), Policy: Policy{MaxBody: 4}},
		Route{Name: "deny", Matches: at("/deny"), Backends: to("mirror"), Policy: Policy{Deny: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}},
		Route{Name: "allow", Matches: at("/allow"), Backends: to("mirror"), Policy: Policy{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}},
		Route{Name: "https", Matches: at("/https"), Backends: to("mirror"), Policy: Policy{HTTPSOnly: true}},
		Route{Name: "cors", Matches: at("/cors"), Backends: to("mirror"), Filters: []Filter{{CORS: &CORS{AllowOrigins: []string{"https://*.a.org"}, AllowMethods: []string{"GET", "PUT"}, AllowHeaders: []string{"x-a"}}}}},
		Route{Name: "slow rate", Matches: at("/rate"), Backends: to("mirror"), Policy: Policy{Rate: &Rate{PerSecond: 0.001, Burst: 2}}},
	))
	type want struct {
		status int
		body   []string // parts of it
		header map[string]string
	}
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		want                     want
	}{
		{
			"forwarded", "GET", "/plain?a=b%20c", "",
			[]string{"Host: web.org", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https", "X-Real-Ip: 9.9.9.9"},
			want{200, []string{"GET web.org /plain?a=b%20c\n", "X-Forwarded-For: 127.0.0.1\r\n", "X-Forwarded-Proto: http\r\n", "X-Forwarded-Host: web.org\r\n", "X-Real-Ip: 127.0.0.1\r\n"}, nil},
		},
		{"body", "POST", "/plain", "hello", nil, want{200, []string{"\nhello\n"}, nil}},
		{"large body", "POST", "/plain", strings.Repeat("x", 300<<10), nil, want{200, []string{strings.Repeat("x", 300<<10)}, nil}},
		{"not found", "GET", "/", "", nil, want{404, []string{"404 Not Found"}, nil}},
		{"edit", "GET", "/edit", "", []string{"X-A: old", "X-B: one", "X-C: gone"}, want{200, []string{"GET edited /edit", "X-A: set\r\n", "X-B: one\r\nX-B: more\r\n"}, map[string]string{"X-Answer": "1", "Content-Type": ""}}},
		{"redirect", "GET", "/old/x?q=1", "", []string{"Host: web.org"}, want{301, nil, map[string]string{"Location": "https://web.org/new/x?q=1"}}},
		{"rewrite", "GET", "/rw/a%2Fb?q", "", nil, want{200, []string{"GET other /a/b?q"}, nil}},
		{"share filter", "GET", "/share", "", nil, want{200, []string{"X-Share: 1\r\n"}, nil}},
		{"upstream host", "GET", "/host", "", nil, want{200, []string{"GET inside /host"}, nil}},
		{"no backend", "GET", "/500", "", nil, want{500, nil, nil}},
		{"weight 0", "GET", "/zero", "", nil, want{500, nil, nil}},
		{"missing", "GET", "/missing", "", nil, want{503, nil, nil}},
		{"no endpoint", "GET", "/none", "", nil, want{503, nil, nil}},
		{"no endpoint, gRPC", "POST", "/none", "", []string{"Content-Type: application/grpc"}, want{200, nil, map[string]string{"Grpc-Status": "14"}}},
		{"refused", "GET", "/gone", "", nil, want{502, nil, nil}},
		{"auth without", "GET", "/auth", "", nil, want{401, nil, map[string]string{"Www-Authenticate": `Basic realm="shop", charset="UTF-8"`}}},
		{"auth wrong", "GET", "/auth", "", []string{"Authorization: Basic dTpzaHV0"}, want{401, nil, nil}},
		{"auth right", "GET", "/auth", "", []string{"Authorization: Basic dTpvcGVu"}, want{200, nil, nil}},
		{"auth by dots", "GET", "/plain/../auth", "", nil, want{401, nil, nil}},
		{"auth by encoded dots", "GET", "/plain/%2e%2e/auth", "", nil, want{401, nil, nil}},
		{"dots resolved", "GET", "/auth/../plain/./x/", "", nil, want{200, []string{" /plain/x/\n"}, nil}},
		{"small", "POST", "/small", "1234", nil, want{200, nil, nil}},
		{"too large", "POST", "/small", "12345", nil, want{413, nil, nil}},
		{"deny", "GET", "/deny", "", nil, want{403, nil, nil}},
		{"allow", "GET", "/allow", "", nil, want{200, nil, nil}},
		{"https", "GET", "/https?a", "", []string{"Host: web.org:80"}, want{308, nil, map[string]string{"Location": "https://web.org/https?a"}}},
		{"challenge", "GET", "/.well-known/acme-challenge/known", "", []string{"Host: web.org:80"}, want{200, []string{"web.org known"}, nil}},
		{"challenge unknown", "GET", "/.well-known/acme-challenge/other", "", nil, want{404, nil, nil}},
		{"preflight", "OPTIONS", "/cors", "", []string{"Origin: https://x.a.org", "Access-Control-Request-Method: PUT"}, want{204, nil, map[string]string{
			"Access-Control-Allow-Origin": "https://x.a.org", "Access-Control-Allow-Methods": "GET, PUT", "Access-Control-Allow-Headers": "x-a", "Access-Control-Max-Age": "5",
		}}},
		{"cors", "GET", "/cors", "", []string{"Origin: https://x.a.org"}, want{200, []string{"GET "}, map[string]string{"Access-Control-Allow-Origin": "https://x.a.org", "Vary": "Origin"}}},
		{"cors of others", "GET", "/cors", "", []string{"Origin: https://x.b.org"}, want{200, nil, map[string]string{"Access-Control-Allow-Origin": ""}}},
		{"bad host", "GET", "/plain", "", []string{"Host: a<b"}, want{400, nil, nil}},
		{"head", "HEAD", "/plain", "", nil, want{200, nil, nil}},
	} {
		for version, cl := range map[string]*http.Client{"1.1": client(t, nil), "2": client(t, h2c)} {
			t.Run(c.name+" over HTTP/"+version, func(t *testing.T) {
				if c.name == "bad host" && version == "2" {
					t.Skip("the client does not send it")
				}
				got := ask(t, cl, c.method, w.url(c.path), c.body, c.headers...)
				if got.Status != c.want.status {
					t.Errorf("status %d, want %d: %s", got.Status, c.want.status, got.Body)
				}
				for _, part := range c.want.body {
					if !strings.Contains(got.Body, part) {
						t.Errorf("answer lacks %.100q:\n%.1000s", part, got.Body)
					}
				}
				for name, value := range c.want.header {
					if v := got.Header.Get(name); v != value {
						t.Errorf("%s is %q, want %q", name, v, value)
					}
				}
			})
		}
	}
	var rates []int
	for range 3 {
		rates = append(rates, ask(t, client(t, nil), "GET", w.url("/rate"), "").Status)
	}
	if d := cmp.Diff([]int{200, 200, 429}, rates); d != "" {
		t.Errorf("answers under a rate limit (-want +got):\n%s", d)
	}
}

// TestTrustedProxy is asked by a proxy that may say for whom.
func TestTrustedProxy(t *testing.T) {
	c := web(map[string]Backend{"b": serving(t, mirrorOf)}, Route{Backends: to("b"), Policy: Policy{HTTPSOnly: true}})
	c.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("10.0.0.0/8")}
	w := start(t, Options{}, c)
	got := ask(t, client(t, nil), "GET", w.url("/"), "", "X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.1.1.1", "X-Forwarded-Proto: https", "X-Forwarded-Port: 443")
	for _, part := range []string{"X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.1.1.1, 127.0.0.1\r\n", "X-Real-Ip: 1.2.3.4\r\n", "X-Forwarded-Proto: https\r\n", "X-Forwarded-Port: 443\r\n"} {
		if !strings.Contains(got.Body, part) {
			t.Errorf("the backend was not told %q:\n%s", part, got.Body)
		}
	}
}

func TestWeights(t *testing.T) {
	w := start(t, Options{}, web(map[string]Backend{"a": says(t, "a"), "b": says(t, "b"), "c": says(t, "c")},
		Route{Backends: []WeightedBackend{{Backend: "a", Weight: 9}, {Backend: "b", Weight: 1}, {Backend: "c", Weight: 0}}}))
	seen := map[string]int{}
	cl := client(t, nil)
	for range 1000 {
		seen[ask(t, cl, "GET", w.url("/"), "").Body]++
	}
	if seen["a"] < 850 || seen["b"] < 50 || seen["c"] > 0 {
		t.Errorf("of 1000 requests weighted 9:1:0: %v", seen)
	}
}

func TestSession(t *testing.T) {
	a, b := says(t, "a"), says(t, "b")
	both := Backend{Endpoints: slices.Concat(a.Endpoints, b.Endpoints)}
	w := start(t, Options{}, web(map[string]Backend{"ab": both}, Route{Backends: to("ab"), Session: &Session{Cookie: "stick", MaxAge: time.Hour}}))
	cl := client(t, nil)
	first := ask(t, cl, "GET", w.url("/"), "")
	cookie, _, _ := strings.Cut(first.Header.Get("Set-Cookie"), ";")
	for range 10 {
		if again := ask(t, cl, "GET", w.url("/"), "", "Cookie: "+cookie); again.Body != first.Body || again.Header.Get("Set-Cookie") != "" {
			t.Fatalf("with %s: %+v, at first %+v", cookie, again, first)
		}
	}
	rest := map[string][]Endpoint{"a": b.Endpoints, "b": a.Endpoints}[first.Body]
	w.SetEndpoints("ab", rest)
	if moved := ask(t, cl, "GET", w.url("/"), "", "Cookie: "+cookie); moved.Body == first.Body || moved.Header.Get("Set-Cookie") == "" {
		t.Errorf("after its endpoint went: %+v", moved)
	}
}

func TestMirror(t *testing.T) {
	copies := make(chan string, 10)
	shadow := serving(t, func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		copies <- r.Method + " " + r.RequestURI + " " + string(b)
	})
	w := start(t, Options{}, web(map[string]Backend{"a": says(t, "a"), "shadow": shadow}, Route{Backends: to("a"), Filters: []Filter{{Mirror: &Mirror{Backend: "shadow"}}}}))
	if got := ask(t, client(t, nil), "POST", w.url("/x?y"), "copied"); got.Body != "a" {
		t.Errorf("the client got %+v", got)
	}
	select {
	case c := <-copies:
		if c != "POST /x?y copied" {
			t.Errorf("the mirror got %q", c)
		}
	case <-time.After(5 * time.Second):
		t.Error("the mirror got nothing")
	}
}

func TestRetry(t *testing.T) {
	var calls atomic.Int32
	flaky := serving(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if calls.Add(1)%3 != 0 {
			w.WriteHeader(503)
			return
		}
		_, _ = w.Write(append([]byte("after all: "), b...))
	})
	// One of two endpoints takes no connection.
	half := says(t, "up")
	half.Endpoints = append(half.Endpoints, Endpoint{netip.MustParseAddrPort("127.0.0.1:1")})
	w := start(t, Options{}, web(map[string]Backend{"flaky": flaky, "half": half},
		Route{Matches: at("/retry"), Backends: to("flaky"), Retry: &Retry{Attempts: 2, Backoff: time.Millisecond, Statuses: []int{503}}},
		Route{Matches: at("/once"), Backends: to("flaky")}, Route{Matches: at("/half"), Backends: to("half")}))
	for version, cl := range map[string]*http.Client{"1.1": client(t, nil), "2": client(t, h2c)} {
		calls.Store(0)
		if got := ask(t, cl, "POST", w.url("/retry"), "body"); got.Status != 200 || got.Body != "after all: body" {
			t.Errorf("with a retry over HTTP/%s: %+v", version, got)
		}
		calls.Store(0)
		if got := ask(t, cl, "POST", w.url("/once"), "body"); got.Status != 503 {
			t.Errorf("without a retry over HTTP/%s: %+v", version, got)
		}
		for range 10 {
			if got := ask(t, cl, "POST", w.url("/half"), "body"); got.Body != "up" {
				t.Errorf("with an endpoint that is down over HTTP/%s: %+v", version, got)
			}
		}
	}
}

func TestTimeouts(t *testing.T) {
	slow := serving(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/drip" {
			_, _ = io.WriteString(w, "some")
			_ = http.NewResponseController(w).Flush()
		}
		select {
		case <-r.Context().Done():
		case <-time.After(5 * time.Second):
		}
	})
	routes := map[string]Timeouts{"/request": {Request: 50 * time.Millisecond}, "/try": {BackendRequest: 50 * time.Millisecond}, "/idle": {Idle: 50 * time.Millisecond}, "/drip": {Idle: 50 * time.Millisecond}}
	var list []Route
	for path, timeouts := range routes {
		list = append(list, Route{Matches: at(path), Backends: to("slow"), Timeouts: timeouts})
	}
	w := start(t, Options{}, web(map[string]Backend{"slow": slow}, list...))
	for version, cl := range map[string]*http.Client{"1.1": client(t, nil), "2": client(t, h2c)} {
		for _, path := range slices.Sorted(maps.Keys(routes)) {
			begin := time.Now()
			if path == "/drip" {
				// The head was sent; the answer can only be cut.
				resp, err := cl.Get(w.url(path))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadAll(resp.Body); err == nil {
					t.Errorf("an answer that stopped in the middle came to an end over HTTP/%s", version)
				}
				_ = resp.Body.Close()
			} else if got := ask(t, cl, "POST", w.url(path), "x"); got.Status != 504 {
				t.Errorf("%s over HTTP/%s: %+v", path, version, got)
			}
			if took := time.Since(begin); took > 3*time.Second {
				t.Errorf("%s over HTTP/%s took %s", path, version, took)
			}
		}
	}
}
