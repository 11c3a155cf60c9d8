// Package economy makes the Kubernetes clients of a node cost little while
// nothing happens, for nodes whose way to the server is metered. It knows the
// API's watch requests and HTTP/2's pings, and must not know who watches what.
// Start reading at Economy.Wrap.
package economy

import (
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

const (
	// longer is how many times as long as client-go asks for, which is five to
	// ten minutes, a watch lasts. Beginning again costs as much as ten lines of
	// news. That a connection has died is not left to the end of a watch to find.
	longer = 8
	// askAfter is the silence after which a connection is asked whether its
	// server lives; client-go's own is 30 s. It is less than the two minutes
	// after which the most forgetful routers drop a connection.
	askAfter = 110 * time.Second
	askLimit = 15 * time.Second
)

// Economy is for all clients of a process that may share connections. Its zero
// value is ready for use.
type Economy struct {
	// mu guards the HTTP2 field of transports: two clients of one identity have
	// the same one.
	mu sync.Mutex
}

// Wrap makes a client's transport thrifty. No request may have gone by next
// before, unless Wrap has been given it.
//
// A watch of client-go's gets a bookmark every minute, which says how far it
// has come. Twenty quiet watches get nothing else, and that is 8 MB a day. Here
// only those that begin with a list get them, which cannot be without; the
// others go without. What they lose: one that sees few of its resource's
// changes, as the kubelet of all pods, lists anew when it ends, once an hour.
func (e *Economy) Wrap(next http.RoundTripper) http.RoundTripper {
	e.pings(next)
	return &transport{next}
}

// pings sets after which silence a transport's HTTP/2 connections are asked.
// client-go has no setting for it but the environment.
func (e *Economy) pings(next http.RoundTripper) {
	for {
		switch t := next.(type) {
		case *http.Transport:
			e.mu.Lock()
			defer e.mu.Unlock()
			if t.HTTP2 == nil {
				t.HTTP2 = &http.HTTP2Config{SendPingTimeout: askAfter, PingTimeout: askLimit}
			}
			return
		case utilnet.RoundTripperWrapper:
			next = t.WrappedRoundTripper()
		default:
			return
		}
	}
}

type transport struct{ next http.RoundTripper }

var _ utilnet.RoundTripperWrapper = (*transport)(nil)

// WrappedRoundTripper lets client-go close idle connections.
func (t *transport) WrappedRoundTripper() http.RoundTripper { return t.next }

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if cheap := cheaper(req.URL); cheap != nil {
		out := *req // A transport may not change the request it is given.
		out.URL = cheap
		req = &out
	}
	return t.next.RoundTrip(req)
}

// cheaper is the request of a watch that lasts longer and has no bookmarks. It
// is nil for everything else.
func cheaper(u *url.URL) *url.URL {
	q := u.Query()
	if !isTrue(q, "watch") || isTrue(q, "sendInitialEvents") || !isTrue(q, "allowWatchBookmarks") {
		return nil
	}
	q.Del("allowWatchBookmarks")
	if seconds, err := strconv.ParseInt(q.Get("timeoutSeconds"), 10, 32); err == nil && seconds > 0 {
		q.Set("timeoutSeconds", strconv.FormatInt(seconds*longer, 10))
	}
	cheap := *u
	cheap.RawQuery = q.Encode()
	return &cheap
}

func isTrue(q url.Values, name string) bool { return q.Get(name) == "true" || q.Get(name) == "1" }
