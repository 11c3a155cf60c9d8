package lb

import (
	"net"
	"slices"
	"sync"
	"time"
)

// A server that has failed is asked after all others for a while: backoffMin
// after the first failure, doubling up to backoffMax.
const (
	backoffMin = time.Second
	backoffMax = 30 * time.Second
)

// server is one server, known or remembered by a connection only. Everything
// but the address is guarded by the pool's mu.
type server struct {
	address string
	fails   int
	until   time.Time // not asked before others until then
	pairs   map[*pair]struct{}
	lookout *pair // looks out for the server's end, nil while there are no pairs
	watched bool  // somebody else looks out, so that the lookout may rest
	left    bool  // he did, until the server was gone
}

// pool is all servers, and the connections through this node's port.
type pool struct {
	given string

	mu      sync.Mutex
	servers []*server
	current *server // that answered last, nil if none has or it is not known any more
	seen    time.Time
	down    bool
	changed chan struct{} // closed and replaced when servers or their order change
	turned  chan struct{} // closed and replaced when down changes
	pairs   map[*pair]struct{}
	ended   bool
	choose  *time.Timer // see reappoint
}

func newPool(given string, kept []string) *pool {
	p := &pool{given: given, changed: make(chan struct{}), turned: make(chan struct{}), pairs: map[*pair]struct{}{}}
	p.choose = time.AfterFunc(appointAfter, p.reappoint)
	p.set(kept)
	return p
}

// set replaces the list, keeps what is known of the servers in it, and reports
// whether it is another than before.
func (p *pool) set(addresses []string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	var next []*server
	for _, a := range append([]string{p.given}, addresses...) {
		is := func(s *server) bool { return s.address == a }
		switch i := slices.IndexFunc(p.servers, is); {
		case a == "" || slices.ContainsFunc(next, is):
		case i >= 0:
			next = append(next, p.servers[i])
		default:
			next = append(next, &server{address: a, pairs: map[*pair]struct{}{}})
		}
	}
	if slices.Equal(next, p.servers) {
		return false
	}
	p.servers = next
	if !slices.Contains(next, p.current) {
		p.current = nil
	}
	close(p.changed)
	p.changed = make(chan struct{})
	return true
}

// order is how servers are tried: the current one, the others, and last those
// that have failed, whose turn comes soonest first.
func (p *pool) order(now time.Time) []*server {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ordered(now)
}

// ordered is order for who holds mu.
func (p *pool) ordered(now time.Time) []*server {
	all := slices.Clone(p.servers)
	rank := func(s *server) int {
		switch {
		case s.until.After(now):
			return 2
		case s == p.current:
			return 0
		}
		return 1
	}
	slices.SortStableFunc(all, func(a, b *server) int {
		if d := rank(a) - rank(b); d != 0 || rank(a) < 2 {
			return d
		}
		return a.until.Compare(b.until)
	})
	return all
}

func (p *pool) list(now time.Time) ([]string, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, s := range p.ordered(now) {
		out = append(out, s.address)
	}
	return out, p.changed
}

func (p *pool) reachable() (bool, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.down, p.turned
}

// turn notes whether a server can be reached, and reports whether that is news.
func (p *pool) turn(down bool) bool {
	if p.down == down {
		return false
	}
	p.down = down
	close(p.turned)
	p.turned = make(chan struct{})
	return true
}

func (p *pool) lastSeen() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// good notes that a server has answered. returned is true when it did not
// before, back when none did, other when another was the one that did.
func (p *pool) good(s *server, now time.Time) (returned, back, other bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	returned = s.fails > 0
	s.fails, s.until, p.seen = 0, time.Time{}, now
	other = p.current != s
	if slices.Contains(p.servers, s) {
		p.current = s
	}
	return returned, p.turn(false), other
}

// fail notes that a server has not answered, and reports whether that is news.
func (p *pool) fail(s *server, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.fails++
	s.until = now.Add(jitter(min(backoffMin<<min(s.fails-1, 10), backoffMax)))
	return s.fails == 1
}

// lost notes that no server has answered, and reports whether that is news.
func (p *pool) lost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.turn(true)
}

// connected keeps a client's connection with a server; nil if all have been
// closed already.
func (p *pool) connected(s *server, conn net.Conn, client *net.TCPConn) *pair {
	one := &pair{server: s, conn: conn, client: client}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return nil
	}
	p.pairs[one], s.pairs[one] = struct{}{}, struct{}{}
	s.appoint()
	p.choose.Reset(appointAfter)
	return one
}

// closed forgets a connection.
func (p *pool) closed(one *pair) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := one.server
	delete(p.pairs, one)
	delete(s.pairs, one)
	if s.lookout == one {
		s.lookout = nil
		s.appoint()
		if !p.ended {
			p.choose.Reset(appointAfter)
		}
	}
}

// appoint sees to it that one of the server's connections looks out.
func (s *server) appoint() {
	if s.lookout != nil {
		return
	}
	for one := range s.pairs {
		s.lookout = one
		s.instruct()
		return
	}
}

// instruct tells the lookout what there is to do.
func (s *server) instruct() {
	if s.watched {
		s.lookout.rest()
		return
	}
	s.lookout.lookOut()
}

// watch notes whether somebody else looks out for the end of a server. When
// that ends, the server may have: it is asked at once, and for a minute more
// often than otherwise. It reports whether somebody does again.
func (p *pool) watch(address string, by bool) (again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.servers, func(s *server) bool { return s.address == address })
	if i < 0 || p.ended {
		return false
	}
	s := p.servers[i]
	again = by && s.left
	s.watched, s.left = by, !by
	switch {
	case s.lookout == nil:
	case by:
		s.lookout.rest()
	default:
		s.lookout.doubt()
		p.choose.Reset(appointAfter)
	}
	return again
}

// appointAfter is how long connections show what they are like before the
// lookouts are chosen among them.
const appointAfter = time.Minute

// reappoint makes the busiest connection to each server look out, since it is
// the one that has to ask least often.
func (p *pool) reappoint() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.servers {
		best := s.lookout
		if best == nil {
			continue
		}
		for one := range s.pairs {
			if one.sent() > best.sent() {
				best = one
			}
		}
		if best != s.lookout {
			s.lookout.rest()
			s.lookout = best
		}
		s.instruct()
	}
}

// closeThose closes every connection with a server, and returns how many.
func (p *pool) closeThose(s *server) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for one := range s.pairs {
		one.close()
	}
	return len(s.pairs)
}

// closeAll closes every connection, also those that are made later.
func (p *pool) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.choose.Stop()
	for one := range p.pairs {
		one.close()
	}
}
