package tunnel

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"skiff/pkg/component"
)

// How long a connection that is asked for waits for a peer without a session:
// one that was here lately is about to come back.
const (
	waitLately = 5 * time.Second
	waitGone   = time.Second
	lately     = time.Minute
	// waitFound is for a peer whose session was just found dead: it will find out
	// as well, and come again.
	waitFound = unackedTimeout + time.Second
	// lookAtClock is how often sessions look whether their time is over.
	lookAtClock = time.Hour
	// remembered bounds how many peers without a session are known.
	remembered = 10_000
)

// Acceptor is what others may do with a Server.
type Acceptor interface {
	// Handler accepts the sessions of peers.
	http.Handler
	// DialContext connects to an address and port through a peer's session.
	DialContext(ctx context.Context, peer, target string) (net.Conn, error)
	// Peers says who is connected.
	Peers() []Peer
}

// Server accepts sessions of peers, at the same time as it Runs, and dials
// through them. Set its fields before the first request.
type Server struct {
	// Authorize says who sends a request, or why it is refused. An error may
	// have a method Status() int, for the answer; otherwise that is 403.
	Authorize func(*http.Request) (peer string, err error)
	Logger    *slog.Logger
	// ID tells several servers of a process apart; default "tunnel".
	ID string

	sessions sync.WaitGroup // and their probes

	mu        sync.Mutex
	transport *http2.Transport // nil unless running; guarded by mu
	identity  string           // of this run; guarded by mu
	started   time.Time        // guarded by mu
	peers     map[string]*peer // guarded by mu
}

var (
	_ component.Component = (*Server)(nil)
	_ component.Readier   = (*Server)(nil)
	_ Acceptor            = (*Server)(nil)
)

// peer is what a Server knows of one.
type peer struct {
	sessions []*session    // oldest first
	gone     time.Time     // when the last session ended
	changed  chan struct{} // closed when a session comes; nil if nobody waits
}

// Peer says who is connected.
type Peer struct {
	Name   string
	Remote string // the address of the newest session
	Since  time.Time
	// Sessions is more than one while a peer reconnects.
	Sessions int
}

// Name implements component.Component.
func (s *Server) Name() string {
	if s.ID == "" {
		return "tunnel"
	}
	return s.ID
}

// Ready implements component.Readier.
func (s *Server) Ready(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.transport == nil {
		return errors.New("sessions are not accepted yet")
	}
	return nil
}

// Run implements component.Component: sessions live while it runs.
func (s *Server) Run(ctx context.Context) error {
	t, err := newTransport()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.transport, s.identity, s.started = t, rand.Text(), time.Now()
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.transport = nil
	for _, p := range s.peers {
		for _, session := range p.sessions {
			session.wire.end(errStopping)
		}
	}
	s.mu.Unlock()
	s.sessions.Wait()
	return nil
}

// Peers implements Acceptor. They are sorted by name.
func (s *Server) Peers() []Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Peer
	for name, p := range s.peers {
		if n := len(p.sessions); n > 0 {
			newest := p.sessions[n-1]
			list = append(list, Peer{Name: name, Remote: newest.remote, Since: newest.since, Sessions: n})
		}
	}
	slices.SortFunc(list, func(a, b Peer) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Dialer dials through one peer.
type Dialer struct {
	Through Acceptor
	Peer    string
}

// DialContext has the form that net/http and others ask for; network is TCP.
func (d Dialer) DialContext(ctx context.Context, _, target string) (net.Conn, error) {
	return d.Through.DialContext(ctx, d.Peer, target)
}

// DialContext implements Acceptor. It waits a few seconds for a peer that has
// no session; errors are *NotConnectedError, *TargetError or ctx's.
func (s *Server) DialContext(ctx context.Context, peer, target string) (net.Conn, error) {
	if _, err := parseTarget(target); err != nil {
		return nil, fmt.Errorf("dial through %s: %w", peer, err)
	}
	began, least := time.Now(), time.Duration(0)
	for {
		session, err := s.await(ctx, peer, began, least)
		if err != nil {
			return nil, err
		}
		c, err := session.dial(ctx, target)
		if err == nil {
			return c, nil
		}
		if _, told := errors.AsType[*TargetError](err); told || ctx.Err() != nil {
			return nil, err
		}
		// The session has ended; the next may be there already.
		s.Logger.Debug("a session was found dead by its use", "peer", peer, "error", err)
		s.drop(session)
		began, least = time.Now(), waitFound
	}
}

// await returns the newest session of a peer. It waits for one as long as is
// worth it, and no less than it is told.
func (s *Server) await(ctx context.Context, name string, began time.Time, least time.Duration) (*session, error) {
	for {
		newest, came, patience, gone := s.newest(name)
		if newest != nil {
			return newest, nil
		}
		t := time.NewTimer(time.Until(began.Add(max(patience, least))))
		select {
		case <-came:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("dial through %s: %w", name, context.Cause(ctx))
		case <-t.C:
			return nil, &NotConnectedError{Peer: name, Gone: gone, Waited: time.Since(began)}
		}
	}
}

// newest returns the session to use, or what tells that there is one and how
// long that is worth waiting for.
func (s *Server) newest(name string) (newest *session, came <-chan struct{}, patience, gone time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peer(name)
	if n := len(p.sessions); n > 0 {
		return p.sessions[n-1], nil, 0, 0
	}
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	since := s.started
	if !p.gone.IsZero() {
		since, gone = p.gone, time.Since(p.gone)
	}
	patience = waitGone
	if time.Since(since) < lately {
		patience = waitLately
	}
	return nil, p.changed, patience, gone
}

// peer returns what is known of one. Call it with mu held.
func (s *Server) peer(name string) *peer {
	if p := s.peers[name]; p != nil {
		return p
	}
	if s.peers == nil {
		s.peers = make(map[string]*peer)
	}
	if len(s.peers) >= remembered {
		s.forget()
	}
	p := &peer{}
	s.peers[name] = p
	return p
}

// forget drops peers that are not here and nobody waits for. Call it with mu
// held.
func (s *Server) forget() {
	for name, p := range s.peers {
		if len(p.sessions) == 0 && p.changed == nil {
			delete(s.peers, name)
		}
	}
}
