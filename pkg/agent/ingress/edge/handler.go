package edge

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const challengePath = "/.well-known/acme-challenge/"

// hopByHop are the headers that are about one connection (RFC 9110, 7.6.1).
var hopByHop = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// forwardedBy are the headers that only a trusted peer may send.
var forwardedBy = []string{"X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto", "Forwarded", "X-Real-Ip"}

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
	x := &exchange{s: one.s, one: one, t: one.table.Load(), start: time.Now(), peer: peerOf(r.RemoteAddr), scheme: "http"}
	x.peerText = x.peer.String()
	x.unblock = func() { _ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) }
	if r.TLS != nil {
		x.scheme = "https"
	}
	one.handle(x, w, r)
}

// handle answers a request.
func (one *socket) handle(x *exchange, w http.ResponseWriter, r *http.Request) {
	x.w = w
	if x.t.accessLog {
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
	for _, part := range slices.Backward(parts) {
		a, err := netip.ParseAddr(strings.TrimSpace(part))
		if err != nil {
			return
		}
		x.client = a.Unmap()
		if !contains(x.t.trusted, x.client) {
			return
		}
	}
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
	if strings.Contains(r.URL.Path, "/.") {
		r = withoutDots(r)
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
	x.forward(w, r)
}

// forward applies the filters and sends the request on.
func (x *exchange) forward(w http.ResponseWriter, in *http.Request) {
	conf := &x.route.conf
	sticky := ""
	if conf.Session != nil {
		if c, err := in.Cookie(conf.Session.name()); err == nil {
			sticky = c.Value
		}
	}
	r := in
	if x.p == nil || x.route.filtered {
		r = new(http.Request)
		*r = *in
		u := *in.URL
		r.URL, r.Header = &u, in.Header.Clone()
	}
	upgrade := ""
	if x.p == nil {
		// parse has let nothing in that is to be removed.
		upgrade = clean(r)
	}
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
	if err := x.keep(r, conf.Retry != nil, len(mirrors) > 0); err != nil {
		x.fail(w, in, &bodyError{err})
		return
	}
	x.mirror(r, mirrors)
	stop := x.after(conf.Timeouts.Request, errTimeout)
	defer stop()
	defer x.watchIdle(conf.Timeouts.Idle)()
	if in.Context().Done() != nil {
		defer context.AfterFunc(in.Context(), func() { x.abort(errClientGone) })()
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
		stop()
		x.upgrade(w, in, resp)
		return
	}
	x.copy(w, resp)
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
	if strings.EqualFold(upgrade, "h2c") {
		// Nobody here would look at the requests in it (h2c smuggling).
		upgrade = ""
	}
	if te != "" {
		h["Te"] = []string{te}
	}
	return upgrade
}

// forwarded says to the backend who asked.
func (x *exchange) forwarded(r *http.Request) {
	h := r.Header
	values := make([]string, 0, 4)
	set := func(name, value string) {
		values = append(values, value)
		n := len(values)
		h[name] = values[n-1 : n : n]
	}
	peer := x.peerText
	if contains(x.t.trusted, x.peer) {
		if before := strings.Join(h["X-Forwarded-For"], ", "); before != "" {
			peer = before + ", " + peer
		}
	} else {
		for _, name := range forwardedBy {
			delete(h, name)
		}
	}
	set("X-Forwarded-For", peer)
	set("X-Forwarded-Proto", x.scheme)
	if len(h["X-Forwarded-Host"]) == 0 {
		set("X-Forwarded-Host", r.Host)
	}
	if len(h["X-Forwarded-Port"]) == 0 {
		h["X-Forwarded-Port"] = x.l.portText
	}
	if x.client == x.peer {
		set("X-Real-Ip", x.peerText)
	} else {
		set("X-Real-Ip", x.client.String())
	}
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
