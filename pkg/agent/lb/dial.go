package lb

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"skiff/internal/pause"
)

const (
	// dialTimeout is how long one server may take to accept a connection.
	dialTimeout = 4 * time.Second
	// stagger is how long one server is waited for before the next is tried
	// beside it.
	stagger = 500 * time.Millisecond

	// When no server answers, a client is made to wait rather than sent away, if
	// there was one a moment ago: most of the time a server is restarting, and
	// clients that fail wait longer from time to time.
	holdAfter = 30 * time.Second // since a server was last seen
	holdFor   = 8 * time.Second
	holdMin   = 200 * time.Millisecond // between attempts
	holdMax   = time.Second

	// deadAfter is how long a server may leave unanswered what was sent to it.
	deadAfter = 8 * time.Second
	// The one connection to each server that looks out for its end asks, when it
	// is silent, after lookoutIdle; the others leave it to that one. Where a
	// tunnel does the same it rests as well, until that is lost (Watched).
	lookoutIdle  = 5 * time.Second
	lookoutEvery = time.Second
	doubtEvery   = time.Second
	restingIdle  = 2 * time.Minute
	restingEvery = 10 * time.Second
)

var errNoServer = errors.New("no server is known: give one by --server")

// dial connects with a server: the last good one if it can be, else whichever
// answers.
func (b *Balancer) dial(ctx context.Context) (net.Conn, *server, error) {
	begin := time.Now()
	wait := holdMin
	for {
		c, s, err := b.dialOnce(ctx)
		if err == nil {
			b.good(s)
			return c, s, nil
		}
		if ctx.Err() != nil {
			return nil, nil, err
		}
		next := jitter(wait)
		if seen := b.pool.lastSeen(); seen.IsZero() || begin.Sub(seen) > holdAfter || time.Since(begin)+next > holdFor {
			b.lost(err)
			return nil, nil, err
		}
		if !pause.For(ctx, next) {
			return nil, nil, err
		}
		wait = min(2*wait, holdMax)
	}
}

// jitter spreads what would otherwise happen at the same moment.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d)
}

// result is the end of one attempt.
type result struct {
	server *server
	conn   net.Conn
	err    error
}

// dialOnce tries every server once, in order, and gives up on one only when the
// next has already been asked.
func (b *Balancer) dialOnce(ctx context.Context) (net.Conn, *server, error) {
	servers := b.pool.order(time.Now())
	if len(servers) == 0 {
		return nil, nil, errNoServer
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result)
	running := 0
	// Whoever is late gives up, and what it has is closed.
	defer func() {
		cancel()
		for ; running > 0; running-- {
			if r := <-results; r.conn != nil {
				_ = r.conn.Close() // Nothing was sent.
			}
		}
	}()
	begin := func() {
		s := servers[0]
		servers = servers[1:]
		running++
		go func() {
			c, err := b.dialer(ctx, s.address)
			results <- result{s, c, err}
		}()
	}
	var errs []error
	begin()
	next := time.NewTimer(stagger)
	defer next.Stop()
	for running > 0 {
		select {
		case <-next.C:
		case r := <-results:
			running--
			if r.err == nil {
				return r.conn, r.server, nil
			}
			errs = append(errs, fmt.Errorf("%s: %w", r.server.address, r.err))
			if ctx.Err() == nil {
				b.failed(r.server, r.err)
			}
		}
		if len(servers) > 0 {
			begin()
			next.Reset(stagger)
		}
	}
	return nil, nil, fmt.Errorf("reach a server: %w", errors.Join(errs...))
}

// dialTCP connects with an address, and sees to it that the end of a server is
// noticed that does not say goodbye.
func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAlive(restingIdle, restingEvery), ControlContext: func(_ context.Context, _, _ string, raw syscall.RawConn) error {
		var err error
		if failed := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter/time.Millisecond))
		}); failed != nil {
			return failed
		}
		return err
	}}
	c, err := d.DialContext(ctx, "tcp", address)
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return nil, op.Err // The address is said by who asks.
	}
	return c, err
}

func keepAlive(idle, every time.Duration) net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: idle, Interval: every, Count: 3}
}

// gone reports whether an error of a connection says that nobody is at the
// other end any more, rather than that somebody has closed it.
func gone(err error) bool {
	return errors.Is(err, unix.ETIMEDOUT) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH)
}
