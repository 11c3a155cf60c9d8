package lb

import (
	"net"
	"net/netip"
)

// Moved closes the connections from addresses that this machine does not have
// any more, so that clients do not wait for answers that cannot come.
func (b *Balancer) Moved(has func(netip.Addr) bool) {
	if n := b.pool.closeLeft(has); n > 0 {
		b.o.Logger.Info("this machine's address has changed, connections with servers are made anew", "closed", n)
	}
}

func (p *pool) closeLeft(has func(netip.Addr) bool) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for one := range p.pairs {
		if from, ok := one.conn.LocalAddr().(*net.TCPAddr); ok && !has(from.AddrPort().Addr().Unmap().WithZone("")) {
			one.close()
			n++
		}
	}
	return n
}
