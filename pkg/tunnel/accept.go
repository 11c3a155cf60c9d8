package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// ServeHTTP accepts a session. It returns when that has ended.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.Method != http.MethodGet || !strings.EqualFold(r.Header.Get("Upgrade"), Protocol) {
		w.Header().Set("Upgrade", Protocol)
		w.Header().Set("Connection", "Upgrade")
		s.answer(w, http.StatusUpgradeRequired, "this is where nodes connect, with Upgrade: "+Protocol+" over HTTP/1.1")
		return
	}
	peer, err := s.Authorize(r)
	if err != nil {
		status := http.StatusForbidden
		if known, ok := errors.AsType[interface {
			error
			Status() int
		}](err); ok {
			status = known.Status()
		}
		s.Logger.Warn("a tunnel was refused", "remote", r.RemoteAddr, "error", err)
		s.answer(w, status, err.Error())
		return
	}
	identity, ok := s.enter()
	if !ok {
		w.Header().Set("Retry-After", "1")
		s.answer(w, http.StatusServiceUnavailable, "the server is starting or stopping")
		return
	}
	defer s.sessions.Done()
	c, err := hijack(w, identity)
	if err != nil {
		s.Logger.Warn("a tunnel was not opened", "peer", peer, "remote", r.RemoteAddr, "error", err)
		return
	}
	s.hold(context.WithoutCancel(r.Context()), peer, c, goodUntil(r))
}

func (s *Server) answer(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, message+"\n") // Who asked may have gone.
}

// enter counts a session that Run will wait for, unless it has stopped. It
// returns who this server is.
func (s *Server) enter() (identity string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.transport == nil {
		return "", false
	}
	s.sessions.Add(1)
	return s.identity, true
}

// hijack takes the connection and says that it is a tunnel now.
func hijack(w http.ResponseWriter, identity string) (net.Conn, error) {
	c, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err //nolint:wrapcheck // It says what failed.
	}
	if buffered.Reader.Buffered() > 0 {
		return nil, errors.Join(errors.New("the peer spoke before it was answered"), c.Close())
	}
	err = errors.Join(tune(c), watch(c, false))
	if err == nil {
		err = c.SetDeadline(time.Now().Add(connectTimeout))
	}
	if err == nil {
		_, err = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+Protocol+"\r\n"+headerServer+": "+identity+"\r\n\r\n")
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// goodUntil is when what a request has proved will not be proved any more, zero
// if it has proved nothing by certificate.
func goodUntil(r *http.Request) time.Time {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return time.Time{}
	}
	return r.TLS.PeerCertificates[0].NotAfter
}

// hold keeps a session until it ends, or its time is over.
func (s *Server) hold(ctx context.Context, peer string, c net.Conn, end time.Time) {
	s.mu.Lock()
	transport := s.transport
	s.mu.Unlock()
	if transport == nil {
		_ = c.Close() // The server has been stopped meanwhile.
		return
	}
	session, err := open(transport, peer, c)
	if err != nil {
		s.Logger.Warn("a tunnel was not opened", "peer", peer, "error", err)
		return
	}
	s.add(ctx, session)
	s.Logger.Info("tunnel is open", "peer", peer, "remote", session.remote)
	session.until(end)
	s.drop(session)
	cause := session.wire.why()
	session.close(cause)
	s.Logger.Info("tunnel has ended", "peer", peer, "remote", session.remote, "reason", cause, "lasted", time.Since(session.since).Round(time.Millisecond))
}

// add makes a session the one to use. The peer's older ones have to prove that
// they live: as a rule they are what a broken network has left. If they do, as
// those of a peer that knows this server by two addresses, they stay as they
// are.
func (s *Server) add(ctx context.Context, session *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.transport == nil {
		session.wire.end(errStopping)
	}
	p := s.peer(session.peer)
	if over := len(p.sessions) - maxSessions + 1; over > 0 {
		for _, oldest := range p.sessions[:over] {
			oldest.wire.end(errTooMany)
		}
		p.sessions = slices.Delete(p.sessions, 0, over)
	}
	for _, older := range p.sessions {
		s.sessions.Go(func() { older.probe(ctx, errReplaced) })
	}
	p.sessions = append(p.sessions, session)
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// drop forgets a session; more than once does no harm.
func (s *Server) drop(session *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peer(session.peer)
	i := slices.Index(p.sessions, session)
	if i < 0 {
		return
	}
	p.sessions = slices.Delete(p.sessions, i, i+1)
	if len(p.sessions) == 0 {
		p.gone = time.Now()
	}
}
