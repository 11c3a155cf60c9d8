package ingress

import (
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"skiff/internal/pause"
)

const (
	// reachPatience is how long port 80 may take to answer before the authority
	// is asked all the same: addresses that lie behind a router cannot always be
	// reached from inside.
	reachPatience = 20 * time.Second
	reachPause    = 250 * time.Millisecond
	reachTimeout  = 2 * time.Second
)

// reach knows whether requests to the node's own port 80 come to this proxy.
// An authority counts each name that it could not check (Let's Encrypt: five an
// hour), so it should not be asked while the port is still being opened.
type reach struct {
	token string // what this proxy alone can answer

	mu    sync.Mutex
	addrs []string // guarded by mu
}

func newReach() *reach {
	return &reach{token: rand.Text()}
}

// at says on what addresses the port should be.
func (r *reach) at(addrs []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addrs = addrs
}

// wait returns true once port 80 of an address has answered as this proxy does,
// false after reachPatience or when ctx ends.
func (r *reach) wait(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, reachPatience)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{
		Transport: transport, Timeout: reachTimeout,
		// This proxy does not redirect here; who does is somebody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for {
		r.mu.Lock()
		addrs := r.addrs
		r.mu.Unlock()
		for _, a := range addrs {
			if r.answers(ctx, client, a) {
				return true
			}
		}
		if !pause.For(ctx, reachPause) {
			return false
		}
	}
}

func (r *reach) answers(ctx context.Context, client *http.Client, addr string) bool {
	url := "http://" + net.JoinHostPort(addr, "80") + "/.well-known/acme-challenge/" + r.token
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, int64(len(r.token))+1))
	return err == nil && string(body) == r.token
}
