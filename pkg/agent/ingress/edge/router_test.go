package edge

import (
	"net/http"
	"net/url"
	"testing"
)

func compiled(t *testing.T, hosts ...VirtualHost) *router {
	t.Helper()
	c := &compiler{config: &Config{Listeners: []Listener{{Name: "web", Hosts: hosts}}}, tables: map[address]*table{}, limiters: limiters{now: map[string]*limiter{}}}
	c.run()
	if len(c.errs) > 0 {
		t.Fatal(c.errs)
	}
	l, _ := c.tables[address{name: "web"}].listeners.first("")
	return &l.router
}

// TestRouteOrder has the routes of a host in an order that is always the wrong one.
func TestRouteOrder(t *testing.T) {
	match := func(kind PathKind, value string) Match { return Match{Path: PathMatch{Kind: kind, Value: value}} }
	with := func(m Match, change func(*Match)) []Match { change(&m); return []Match{m} }
	header := []ValueMatch{{Name: "x-a", Value: "1"}}
	rt := compiled(t, VirtualHost{Hosts: []string{"*.example.com"}, Routes: []Route{{Name: "wild"}}},
		VirtualHost{Hosts: []string{"*.deep.example.com"}, Routes: []Route{{Name: "deep"}}},
		VirtualHost{Hosts: []string{"*.one.org"}, WildcardOneLabel: true, Routes: []Route{{Name: "one"}}},
		VirtualHost{Hosts: []string{"some.one.org"}, Routes: []Route{{Name: "some", Matches: []Match{match(PathExact, "/only")}}}},
		VirtualHost{Routes: []Route{
			{Name: "root", Matches: []Match{match(PathPrefix, "/")}},
			{Name: "a", Matches: []Match{match(PathPrefix, "/a/")}},
			{Name: "ab", Matches: []Match{match(PathPrefix, "/a/b")}},
			{Name: "ab header", Matches: with(match(PathPrefix, "/a/b"), func(m *Match) { m.Headers = header })},
			{Name: "ab query", Matches: with(match(PathPrefix, "/a/b"), func(m *Match) { m.Query = []ValueMatch{{Name: "q", Value: "v+", Regexp: true}} })},
			{Name: "ab post", Matches: with(match(PathPrefix, "/a/b"), func(m *Match) { m.Method = "POST" })},
			{Name: "regexp", Matches: []Match{match(PathRegexp, "/a/b/c/[0-9]+")}},
			{Name: "exact", Matches: []Match{match(PathExact, "/a/b/c/9")}},
			{Name: "exact too", Matches: []Match{match(PathExact, "/a/b/c/9")}},
			{Name: "grpc", Matches: []Match{{Path: GRPCMethod("shop.Cart", "", false)}}},
			{Name: "grpc any", Matches: []Match{{Path: GRPCMethod("", "List", false)}}},
		}},
	)
	for _, c := range []struct{ method, host, target, header, want string }{
		{"GET", "x.org", "/", "", "root"},
		{"GET", "x.org", "/ab", "", "root"},
		{"GET", "x.org", "/a", "", "a"},
		{"GET", "x.org", "/a/", "", "a"},
		{"GET", "x.org", "/a/bc", "", "a"},
		{"GET", "x.org", "/a/b/c", "", "ab"},
		{"GET", "x.org", "/a/b", "1", "ab header"},
		{"GET", "x.org", "/a/b", "2", "ab"},
		{"GET", "x.org", "/a/b?q=vv", "", "ab query"},
		{"GET", "x.org", "/a/b?q=vvx", "", "ab"},
		{"GET", "x.org", "/a/b?q=v", "1", "ab header"},
		{"POST", "x.org", "/a/b?q=v", "1", "ab post"},
		{"GET", "x.org", "/a/b/c/12", "1", "regexp"},
		{"GET", "x.org", "/a/b/c/12x", "", "ab"},
		{"POST", "x.org", "/a/b/c/9", "1", "exact"},
		{"GET", "www.example.com", "/a", "", "wild"},
		{"GET", "a.b.example.com", "/", "", "wild"},
		{"GET", "a.deep.example.com", "/", "", "deep"},
		{"GET", "example.com", "/a", "", "a"},
		{"GET", "x.one.org", "/a", "", "one"},
		{"GET", "x.y.one.org", "/a", "", "a"},
		{"GET", "some.one.org", "/only", "", "some"},
		{"GET", "some.one.org", "/other", "", "one"},
		{"POST", "x.org", "/shop.Cart/Add", "", "grpc"},
		{"POST", "x.org", "/any.Thing/List", "", "grpc any"},
	} {
		u, err := url.ParseRequestURI(c.target)
		if err != nil {
			t.Fatal(err)
		}
		r := &http.Request{Method: c.method, URL: u, Host: c.host, Header: http.Header{}}
		if c.header != "" {
			r.Header.Set("X-A", c.header)
		}
		got, _ := rt.find(canonicalHost(c.host), r)
		if got == nil || got.name != c.want {
			t.Errorf("%s %s%s (x-a: %s) is for %+v, want %s", c.method, c.host, c.target, c.header, got, c.want)
		}
	}
}

func TestCanonicalHost(t *testing.T) {
	for in, want := range map[string]string{"Example.COM": "example.com", "a.b.:80": "a.b", "[::1]:80": "::1", "a:80": "a", "1.2.3.4": "1.2.3.4", "": ""} {
		if got := canonicalHost(in); got != want {
			t.Errorf("canonicalHost(%q) = %q, want %q", in, got, want)
		}
	}
}
