package netx

import (
	"context"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// watchBuffer is how many changes the kernel's messages may be ahead of us.
const watchBuffer = 64

// Watch calls changed whenever addresses, routes of the main table or the
// state of interfaces of the host may have changed. It returns when ctx ends
// (with nil), or when the kernel ends it, which it does to who does not keep
// up: what was missed then is a change, too. changed must not block.
func Watch(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	addrs := make(chan netlink.AddrUpdate, watchBuffer)
	if err := netlink.AddrSubscribe(addrs, ctx.Done()); err != nil {
		return err
	}
	// The library closes a channel when its subscription ends, and stops a
	// reader that nobody listens to only at the next message: drain all.
	defer drain(addrs)
	routes := make(chan netlink.RouteUpdate, watchBuffer)
	if err := netlink.RouteSubscribe(routes, ctx.Done()); err != nil {
		cancel()
		return err
	}
	defer drain(routes)
	links := make(chan netlink.LinkUpdate, watchBuffer)
	if err := netlink.LinkSubscribe(links, ctx.Done()); err != nil {
		cancel()
		return err
	}
	defer drain(links)
	defer cancel() // before the drains
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-addrs:
			if !ok {
				return nil
			}
		case r, ok := <-routes:
			if !ok {
				return nil
			}
			if r.Table != unix.RT_TABLE_MAIN || !isDefault(r.Route) {
				continue // pods come and go
			}
		case l, ok := <-links:
			if !ok {
				return nil
			}
			if l.IfInfomsg.Change == 0 {
				continue // nothing but counters or a bridge's ports
			}
		}
		changed()
	}
}

func drain[T any](c <-chan T) {
	for range c {
	}
}
