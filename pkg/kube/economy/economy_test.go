package economy

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheaper(t *testing.T) {
	for in, want := range map[string]string{
		"/api/v1/pods": "",
		"/api/v1/pods?allowWatchBookmarks=true&resourceVersion=7&timeoutSeconds=300":                                         "",
		"/api/v1/pods?resourceVersion=7&timeoutSeconds=300&watch=true":                                                       "",
		"/api/v1/pods?allowWatchBookmarks=true&sendInitialEvents=true&timeoutSeconds=300&watch=true":                         "",
		"/api/v1/pods?allowWatchBookmarks=true&resourceVersion=7&watch=true":                                                 "/api/v1/pods?resourceVersion=7&watch=true",
		"/api/v1/pods?allowWatchBookmarks=true&fieldSelector=spec.nodeName%3Da&resourceVersion=7&timeoutSeconds=599&watch=1": "/api/v1/pods?fieldSelector=spec.nodeName%3Da&resourceVersion=7&timeoutSeconds=4792&watch=1",
		"/api/v1/pods?allowWatchBookmarks=true&timeout=30s&timeoutSeconds=x&watch=true":                                      "/api/v1/pods?timeout=30s&timeoutSeconds=x&watch=true",
	} {
		u, err := url.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if c := cheaper(u); c != nil {
			got = c.String()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", in, diff)
		}
		if u.String() != in {
			t.Errorf("%s has become %s", in, u)
		}
	}
}

// wrapper is as client-go puts them around its transports.
type wrapper struct{ http.RoundTripper }

func (w wrapper) WrappedRoundTripper() http.RoundTripper { return w.RoundTripper }

// TestWrap has two clients that share a transport, as those of one identity do.
func TestWrap(t *testing.T) {
	asked := make(chan string, 2)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.RequestURI() }))
	defer server.Close()
	shared := &http.Transport{}
	defer shared.CloseIdleConnections()
	var e Economy
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			client := http.Client{Transport: e.Wrap(wrapper{wrapper{shared}})}
			answer, err := client.Get(server.URL + "/x?allowWatchBookmarks=true&watch=true")
			if err != nil {
				t.Error(err)
				return
			}
			_ = answer.Body.Close()
		})
	}
	both.Wait()
	close(asked)
	for got := range asked {
		if got != "/x?watch=true" {
			t.Errorf("the server was asked for %s", got)
		}
	}
	if got := shared.HTTP2; got == nil || got.SendPingTimeout != askAfter {
		t.Errorf("the transport's HTTP2 is %+v", got)
	}
}
