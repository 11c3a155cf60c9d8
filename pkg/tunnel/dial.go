package tunnel

import (
	"context"
	"net"
	"time"
)

// againAfter is when an address that does not answer is asked once more, beside
// the first attempt: its name may mean another machine by now, and the first
// packet of a connection that was lost is not repeated soon.
const againAfter = 1500 * time.Millisecond

// dial connects to a server.
func dial(ctx context.Context, server string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	running := 0
	begin := func() {
		running++
		go func() {
			c, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", server)
			results <- result{c, err}
		}()
	}
	// Who is late gives up, and what it has is closed.
	defer func() {
		cancel()
		for ; running > 0; running-- {
			if r := <-results; r.conn != nil {
				_ = r.conn.Close() // Nothing was sent.
			}
		}
	}()
	begin()
	again := time.NewTimer(againAfter)
	defer again.Stop()
	var last error
	for running > 0 {
		select {
		case <-again.C:
			begin()
		case r := <-results:
			running--
			if r.err == nil {
				return r.conn, nil
			}
			last = r.err
		}
	}
	return nil, last
}
