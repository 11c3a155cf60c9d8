package edge

import (
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/bcrypt"
)

func TestPathEdit(t *testing.T) {
	for _, c := range []struct {
		match PathMatch
		edit  PathEdit
		path  string
		want  string
	}{
		{PathMatch{Value: "/a"}, PathEdit{Value: "/x"}, "/a/b", "/x"},
		{PathMatch{Value: "/a"}, PathEdit{PathReplacePrefix, "/x"}, "/a/b", "/x/b"},
		{PathMatch{Value: "/a"}, PathEdit{PathReplacePrefix, "/x"}, "/a", "/x"},
		{PathMatch{Value: "/a"}, PathEdit{PathReplacePrefix, "/x"}, "/a/", "/x/"},
		{PathMatch{Value: "/a/"}, PathEdit{PathReplacePrefix, "/x/"}, "/a/b", "/x/b"},
		{PathMatch{Value: "/a"}, PathEdit{PathReplacePrefix, "/"}, "/a/b", "/b"},
		{PathMatch{Value: "/a"}, PathEdit{PathReplacePrefix, ""}, "/a", "/"},
		{PathMatch{Value: "/"}, PathEdit{PathReplacePrefix, "/x"}, "/b", "/x/b"},
		{PathMatch{Kind: PathRegexp, Value: "/a(/|$)(.*)"}, PathEdit{PathTemplate, "/$2"}, "/a/b/c", "/b/c"},
		{PathMatch{Kind: PathRegexp, Value: "/a(/|$)(.*)"}, PathEdit{PathTemplate, "/x/$2"}, "/a", "/x/"},
		{PathMatch{Kind: PathRegexp, Value: "/A/(.*)", FoldCase: true}, PathEdit{PathTemplate, "${1}"}, "/a/b", "/b"},
	} {
		m, err := compileMatch(Match{Path: c.match})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.edit.path(c.path, &m); got != c.want {
			t.Errorf("%+v of %s (matched %+v) is %s, want %s", c.edit, c.path, c.match, got, c.want)
		}
	}
}

func TestRedirectLocation(t *testing.T) {
	for _, c := range []struct {
		r      Redirect
		scheme string
		port   uint16
		target string
		want   string
	}{
		{Redirect{}, "http", 80, "http://a.org/x?y=z", "http://a.org/x?y=z"},
		{Redirect{}, "http", 8080, "http://a.org:8080/x", "http://a.org:8080/x"},
		{Redirect{Scheme: "https"}, "http", 8080, "http://a.org:8080/x", "https://a.org/x"},
		{Redirect{Scheme: "https", Port: 8443}, "http", 80, "http://a.org/x", "https://a.org:8443/x"},
		{Redirect{Hostname: "b.org"}, "https", 443, "https://a.org/%2F?", "https://b.org/%2F"},
		{Redirect{Path: &PathEdit{PathReplacePrefix, "/y"}}, "http", 80, "http://a.org/x/1?q", "http://a.org/y/1?q"},
		{Redirect{Port: 443, Scheme: "https"}, "http", 80, "http://[::1]:80/", "https://[::1]/"},
		{Redirect{Location: "https://other/"}, "http", 80, "http://a.org/x", "https://other/"},
	} {
		m, _ := compileMatch(Match{Path: PathMatch{Value: "/x"}})
		if got := c.r.location(httptest.NewRequest("GET", c.target, nil), &m, c.scheme, c.port); got != c.want {
			t.Errorf("%+v of %s is %s, want %s", c.r, c.target, got, c.want)
		}
	}
}

func TestCheckPassword(t *testing.T) {
	strong, err := bcrypt.GenerateFromPassword([]byte("foo"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	for name, hash := range map[string]string{
		"sha": "{SHA}C+7Hteo/D9vJXQ3UfzxbwnXaijM=",
		// openssl passwd -apr1 -salt saltsalt foo
		"apr1":   "$apr1$saltsalt$8YFArRF7fT.LGRLo8ZCb9/",
		"bcrypt": string(strong),
	} {
		if !knownHash(hash) || !checkPassword("foo", hash) {
			t.Errorf("%s: the password does not fit", name)
		}
		if checkPassword("bar", hash) {
			t.Errorf("%s: a wrong password fits", name)
		}
	}
}

func TestLimiter(t *testing.T) {
	l := &limiter{rate: Rate{PerSecond: 2, Burst: 3}, buckets: map[netip.Addr]*bucket{}}
	now := time.Unix(1, 0)
	var got []time.Duration
	for _, after := range []time.Duration{0, 0, 0, 0, time.Second, 0, 0, time.Hour, 0, 0, 0} {
		now = now.Add(after)
		got = append(got, l.take(netip.Addr{}, now))
	}
	half := 500 * time.Millisecond
	if d := cmp.Diff([]time.Duration{0, 0, 0, half, 0, 0, half, 0, 0, 0, half}, got); d != "" {
		t.Errorf("waits (-want +got):\n%s", d)
	}
}
