package edge

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

const challengePath = "/.well-known/acme-challenge/"

// hopByHop are the headers that are about one connection (RFC 9110, 7.6.1).
var hopByHop = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

var buffers = sync.Pool{New: func() any { return new(make([]byte, 32<<10)) }}

func getBuffer() *[]byte  { b, _ := buffers.Get().(*[]byte); return b }
func putBuffer(b *[]byte) { buffers.Put(b) }

func peerOf(remote string) netip.Addr {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}

// ServeHTTP implements http.Handler: one request from its head to the end of its answer.
func (one *socket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t := one.table.Load()
	x := &exchange{s: one.s, t: t, start: time.Now(), peer: peerOf(r.RemoteAddr), scheme: "http"}
	x.unblock = func() { _ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) }
	if r.TLS != nil {
		x.scheme = "https"
	}
	if t.accessLog {
		defer func() {
			name := ""
			if x.route != nil {
				name = x.route.name
			}
			one.s.o.Logger.Info("request", "client", x.client, "method", r.Method, "host", r.Host, "path", r.URL.Path, "route", name,
				"status", x.status, "took", time.Since(x.start))
		}()
	}
	x.identify(r)
	x.serve(w, r)
}

// identify finds out who asks, and by which scheme.
func (x *exchange) identify(r *http.Request) {
	x.client = x.peer
	if !contains(x.t.trusted, x.peer) {
		return
	}
	if s := r.Header.Get("X-Forwarded-Proto"); s == "http" || s == "https" {
		x.scheme = s
	}
	parts := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(parts) - 1; i >= 0; i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(parts[i]))
		if err != nil {
			return
		}
		x.client = a.Unmap()
		if !contains(x.t.trusted, x.client) {
			return
		}
	}
}

// answer ends the request here.
func (x *exchange) answer(w http.ResponseWriter, r *http.Request, status int) {
	x.status = status
	for name, values := range x.cors {
		w.Header()[name] = values
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") && status >= 400 {
		// A gRPC client wants to be told in its own way (gRPC over HTTP/2, status mapping).
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", grpcStatus(status))
		w.Header().Set("Grpc-Message", http.StatusText(status))
		w.WriteHeader(http.StatusOK)
		return
	}
	if w.Header().Get("Location") != "" || r.Method == http.MethodHead {
		w.WriteHeader(status)
		return
	}
	http.Error(w, strconv.Itoa(status)+" "+http.StatusText(status), status)
}

func grpcStatus(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "16"
	case http.StatusForbidden:
		return "7"
	case http.StatusNotFound:
		return "12"
	case http.StatusGatewayTimeout:
		return "4"
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable:
		return "14"
	}
	return "2"
}

// serve finds the route and follows it.
func (x *exchange) serve(w http.ResponseWriter, r *http.Request) {
	if token, ok := strings.CutPrefix(r.URL.Path, challengePath); ok && x.s.o.Challenge != nil {
		if answer, known := x.s.o.Challenge(hostOnly(r.Host), token); known {
			w.Header().Set("Content-Type", "application/octet-stream")
			_, _ = io.WriteString(w, answer)
			x.status = http.StatusOK
			return
		}
	}
	if !validHost(r.Host) || r.Method == http.MethodConnect {
		x.answer(w, r, http.StatusBadRequest)
		return
	}
	host := canonicalHost(r.Host)
	l, ok := x.t.listeners.first(host)
	if r.TLS != nil {
		// A connection was made to one listener; a request of another must not come over it (RFC 9110, 7.4).
		made, known := x.t.listeners.first(canonicalHost(r.TLS.ServerName))
		if !known || made.proto != HTTPS || ok && made != l {
			x.answer(w, r, http.StatusMisdirectedRequest)
			return
		}
	}
	if !ok {
		x.answer(w, r, http.StatusNotFound)
		return
	}
	x.l = l
	if x.route, x.match = l.router.find(host, r); x.route == nil {
		x.answer(w, r, http.StatusNotFound)
		return
	}
	if x.route.policy.any && !x.route.policy.check(w, r, x) {
		return
	}
	x.forward(w, r, host)
}

// forward applies the filters and sends the request on.
func (x *exchange) forward(w http.ResponseWriter, in *http.Request, host string) {
	r := new(http.Request)
	*r = *in
	u := *in.URL
	r.URL, r.Header = &u, in.Header.Clone()
	upgrade := clean(r)
	x.forwarded(r)
	var mirrors []*Mirror
	if ended := x.filter(w, in, r, x.route.filters, &mirrors); ended {
		return
	}
	s := x.route.shares.pick(rand.IntN)
	if s == nil {
		x.answer(w, in, http.StatusInternalServerError)
		return
	}
	if ended := x.filter(w, in, r, s.filters, &mirrors); ended {
		return
	}
	b := x.t.backends[s.backend]
	if b == nil {
		x.answer(w, in, s.status)
		return
	}
	if b.conf.HostRewrite != "" {
		r.Host = b.conf.HostRewrite
	}
	if upgrade != "" {
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", upgrade)
	}
	conf := &x.route.conf
	if err := x.keep(r, conf.Retry != nil, len(mirrors) > 0); err != nil {
		x.fail(w, in, &bodyError{err})
		return
	}
	x.mirror(r, mirrors)
	defer x.after(conf.Timeouts.Request, errTimeout)()
	if in.Context().Done() != nil {
		defer context.AfterFunc(in.Context(), func() { x.abort(errClientGone) })()
	}
	sticky := ""
	if conf.Session != nil {
		if c, err := in.Cookie(conf.Session.name()); err == nil {
			sticky = c.Value
		}
	}
	resp, e, err := x.send(b, r, sticky)
	if err != nil {
		x.fail(w, in, err)
		return
	}
	defer resp.Body.Close()
	if conf.Session != nil && e.id != sticky {
		resp.Header.Add("Set-Cookie", conf.Session.cookie(e.id, x.scheme == "https"))
	}
	x.status = resp.StatusCode
	if resp.StatusCode == http.StatusSwitchingProtocols {
		x.upgrade(w, in, resp)
		return
	}
	x.copy(w, in, resp)
}

func (s *Session) name() string {
	if s.Cookie == "" {
		return "skiff-session"
	}
	return s.Cookie
}

func (s *Session) cookie(id string, secure bool) string {
	c := &http.Cookie{Name: s.name(), Value: id, Path: s.Path, MaxAge: int(s.MaxAge.Seconds()), HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode}
	if c.Path == "" {
		c.Path = "/"
	}
	return c.String()
}

// clean removes what is between the client and us alone. It returns the protocol to upgrade to, if any.
func clean(r *http.Request) (upgrade string) {
	h := r.Header
	te := ""
	for _, v := range h["Te"] {
		if strings.Contains(strings.ToLower(v), "trailers") {
			te = "trailers"
		}
	}
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			name = strings.TrimSpace(name)
			if strings.EqualFold(name, "upgrade") {
				upgrade = h.Get("Upgrade")
				continue
			}
			h.Del(name)
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
	delete(h, "Expect")
	if te != "" {
		h["Te"] = []string{te}
	}
	return upgrade
}

// forwarded says to the backend who asked.
func (x *exchange) forwarded(r *http.Request) {
	h := r.Header
	peer := x.peer.String()
	if contains(x.t.trusted, x.peer) {
		if before := strings.Join(h.Values("X-Forwarded-For"), ", "); before != "" {
			peer = before + ", " + peer
		}
	} else {
		for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto", "Forwarded", "X-Real-Ip"} {
			delete(h, name)
		}
	}
	h["X-Forwarded-For"] = []string{peer}
	h["X-Forwarded-Proto"] = []string{x.scheme}
	if h.Get("X-Forwarded-Host") == "" {
		h["X-Forwarded-Host"] = []string{r.Host}
	}
	if h.Get("X-Forwarded-Port") == "" {
		h["X-Forwarded-Port"] = []string{strconv.Itoa(int(x.l.port))}
	}
	h["X-Real-Ip"] = []string{x.client.String()}
}

// filter applies filters in order; one of them may end the request.
func (x *exchange) filter(w http.ResponseWriter, in, r *http.Request, list []filter, mirrors *[]*Mirror) (ended bool) {
	for i := range list {
		f := &list[i]
		switch {
		case f.RequestHeaders != nil:
			f.RequestHeaders.applyRequest(r)
		case f.ResponseHeaders != nil:
			x.edits = append(x.edits, f.ResponseHeaders)
		case f.Rewrite != nil:
			f.Rewrite.apply(r, x.match)
		case f.Mirror != nil:
			*mirrors = append(*mirrors, f.Mirror)
		case f.Redirect != nil:
			status := f.Redirect.Status
			if status == 0 {
				status = http.StatusFound
			}
			w.Header().Set("Location", f.Redirect.location(in, x.match, x.scheme, x.l.port))
			x.edit(w.Header())
			x.answer(w, in, status)
			return true
		case f.cors != nil:
			x.cors = f.cors.headersFor(in, isPreflight(in))
			if isPreflight(in) {
				x.answer(w, in, http.StatusNoContent)
				return true
			}
		}
	}
	return false
}

func (x *exchange) edit(h http.Header) {
	for _, e := range x.edits {
		e.apply(h)
	}
}

// fail answers a request that could not be sent on.
func (x *exchange) fail(w http.ResponseWriter, r *http.Request, err error) {
	var large *http.MaxBytesError
	var body *bodyError
	cause := x.stopped()
	status := http.StatusBadGateway
	switch {
	case errors.Is(cause, errClientGone):
		x.status = 499
		return
	case errors.As(err, &large):
		status = http.StatusRequestEntityTooLarge
	case errors.As(err, &body):
		status = http.StatusBadRequest
	case errors.Is(cause, errTimeout), errors.Is(cause, errTryTimeout), isTimeout(err):
		status = http.StatusGatewayTimeout
	case errors.Is(err, errNoEndpoint):
		status = http.StatusServiceUnavailable
	}
	x.s.o.Logger.Debug("request failed", "route", x.route.name, "status", status, "error", err)
	x.edit(w.Header())
	x.answer(w, r, status)
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
