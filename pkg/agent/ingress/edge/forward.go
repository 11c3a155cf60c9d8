package edge

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"
)

const (
	// maxKept is the largest body that is read before it is sent, so that it can be sent again.
	maxKept = 64 << 10
	// connectTries are endpoints asked for a connection when nothing says more.
	connectTries = 3
)

var errNoEndpoint = errors.New("no endpoint is ready")

// send gets an answer from the backend, from another endpoint where that is safe. The caller closes the answer's body.
func (x *exchange) send(b *backend, r *http.Request, sticky string) (*http.Response, *endpoint, error) {
	conf := &x.route.conf
	retries := 0
	if conf.Retry != nil {
		retries = conf.Retry.Attempts
	}
	fresh := false
	for try, dials := 0, 0; ; try++ {
		e := b.choose(sticky, x.client, try)
		if e == nil {
			return nil, nil, errNoEndpoint
		}
		stop := x.after(conf.Timeouts.BackendRequest, errTryTimeout)
		resp, err := x.try(b, e, r, fresh)
		if err == nil {
			if resp.StatusCode == http.StatusSwitchingProtocols {
				stop()
				return resp, e, nil
			}
			if conf.Timeouts.BackendRequest > 0 {
				resp.Body = &stopBody{resp.Body, stop}
			}
			if retries == 0 || !slices.Contains(conf.Retry.Statuses, resp.StatusCode) || !x.replayable(r) {
				return resp, e, nil
			}
			_ = resp.Body.Close()
		} else {
			stop()
			if x.over() {
				return nil, e, err
			}
			var dial *dialError
			var stale *staleError
			switch {
			case errors.As(err, &stale) && idempotent(r) && x.replayable(r) && !fresh:
				fresh = true
				x.again()
				continue
			case errors.As(err, &dial):
				e.down.Store(time.Now().Add(downTime).UnixNano())
				if dials++; dials < connectTries && len(*b.endpoints.Load()) > 1 {
					x.again()
					continue
				}
				if retries == 0 {
					return nil, e, err
				}
			case retries == 0 || !x.replayable(r):
				return nil, e, err
			}
		}
		retries--
		x.again()
		if !x.pause(conf.Retry, try) {
			return nil, e, x.stopped()
		}
	}
}

// over says whether there is nobody left to try for.
func (x *exchange) over() bool {
	cause := x.stopped()
	return cause != nil && !errors.Is(cause, errTryTimeout)
}

// pause waits before the next try.
func (x *exchange) pause(conf *Retry, try int) bool {
	d := conf.Backoff
	if d == 0 {
		d = 25 * time.Millisecond << min(try, 6)
	}
	gone := make(chan struct{})
	var once bool
	if x.hold(func() {
		if !once {
			once = true
			close(gone)
		}
	}) != nil {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		x.again()
		return true
	case <-gone:
		return false
	}
}

func idempotent(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

func (x *exchange) replayable(r *http.Request) bool { return r.Body == http.NoBody || x.kept != nil }

// try sends the request to one endpoint.
func (x *exchange) try(b *backend, e *endpoint, r *http.Request, fresh bool) (*http.Response, error) {
	if b.std == nil {
		return x.trySocket(e, r, fresh)
	}
	x.retained = true
	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), connectKey{}, x.route.conf.Timeouts.Connect))
	if err := x.hold(cancel); err != nil {
		cancel()
		return nil, err
	}
	out := r.WithContext(ctx)
	u := *r.URL
	u.Scheme, u.Host = "http", e.addr
	if b.conf.TLS != nil {
		u.Scheme = "https"
	}
	out.URL, out.RequestURI = &u, ""
	if x.kept != nil {
		out.Body = io.NopCloser(newBytes(x.kept))
	} else if r.Body == http.NoBody {
		out.Body = http.NoBody
	} else {
		// The transport would close it, and what is left of it is the accepting side's.
		out.Body = io.NopCloser(&progressReader{r.Body, x})
	}
	resp, err := b.std.RoundTrip(out)
	if err != nil {
		cancel()
		return nil, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		if rwc, ok := resp.Body.(io.ReadWriteCloser); ok {
			resp.Body = &stopDuplex{rwc, cancel}
		}
		return resp, nil
	}
	resp.Body = &stopBody{resp.Body, cancel}
	return resp, nil
}

// progressReader tells of what the transport takes.
type progressReader struct {
	io.Reader
	x *exchange
}

func (p *progressReader) Read(b []byte) (int, error) {
	p.x.progress()
	return p.Reader.Read(b)
}

// stopBody calls stop when it is closed.
type stopBody struct {
	io.ReadCloser
	stop func()
}

func (b *stopBody) Close() error {
	err := b.ReadCloser.Close()
	b.stop()
	return err
}

// stopDuplex is stopBody for an upgraded connection.
type stopDuplex struct {
	io.ReadWriteCloser
	stop func()
}

func (b *stopDuplex) Close() error {
	err := b.ReadWriteCloser.Close()
	b.stop()
	return err
}
