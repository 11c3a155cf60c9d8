package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	mdns "github.com/miekg/dns"
)

// choosePort returns the preferred port on all addresses, or another one when
// that is taken for UDP or TCP. CoreDNS opens its sockets itself, so they are
// closed again here.
func choosePort(ctx context.Context, addrs []netip.Addr, preferred uint16) ([]netip.AddrPort, error) {
	var errs []error
	for _, port := range []uint16{preferred, 0, 0, 0} {
		got, err := tryPorts(ctx, addrs, port)
		if err == nil {
			return got, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("find a free port for cluster DNS on %s: %w", addrs, errors.Join(errs...))
}

// tryPorts is tryPort for all addresses. Port 0 is any that the first one has
// free.
func tryPorts(ctx context.Context, addrs []netip.Addr, port uint16) ([]netip.AddrPort, error) {
	out := make([]netip.AddrPort, 0, len(addrs))
	for _, addr := range addrs {
		got, err := tryPort(ctx, netip.AddrPortFrom(addr, port))
		if err != nil {
			return nil, err
		}
		port = got.Port()
		out = append(out, got)
	}
	return out, nil
}

// tryPort opens and closes a TCP listener and a UDP socket on the same port.
func tryPort(ctx context.Context, at netip.AddrPort) (netip.AddrPort, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", at.String())
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer l.Close()
	got, err := netip.ParseAddrPort(l.Addr().String())
	if err != nil {
		return netip.AddrPort{}, err
	}
	p, err := lc.ListenPacket(ctx, "udp", got.String())
	if err != nil {
		return netip.AddrPort{}, err
	}
	return got, p.Close()
}

// probe asks the server at addr for the A record of name.
func probe(ctx context.Context, addr netip.AddrPort, name string) error {
	q := new(mdns.Msg)
	q.SetQuestion(name, mdns.TypeA)
	if addr.Addr().Is6() {
		q.Question[0].Qtype = mdns.TypeAAAA
	}
	c := mdns.Client{Timeout: time.Second}
	r, _, err := c.ExchangeContext(ctx, q, addr.String())
	if err != nil {
		return fmt.Errorf("ask %s for %s: %w", addr, name, err)
	}
	if r.Rcode != mdns.RcodeSuccess {
		return fmt.Errorf("ask %s for %s: answer is %s", addr, name, mdns.RcodeToString[r.Rcode])
	}
	return nil
}
