package flannel

import (
	"context"
	"time"

	"github.com/vishvananda/netlink"

	"skiff/internal/pause"
)

// againAfter is how long a broken watch of the host's addresses rests. What
// broke it is usually a burst of changes.
const againAfter = time.Second

// subscribeFunc is netlink.AddrSubscribe.
type subscribeFunc func(updates chan<- netlink.AddrUpdate, ended <-chan struct{}) error

// watchAddresses puts a value into changed, which holds one, whenever addresses
// of the host may have changed, until ctx ends. The kernel ends a subscription
// that does not keep up; what was missed is a change, and another is made.
func (f *Flannel) watchAddresses(ctx context.Context, changed chan<- struct{}, subscribe subscribeFunc) {
	for {
		f.followAddresses(ctx, changed, subscribe)
		signal(changed)
		if !pause.For(ctx, againAfter) {
			return
		}
	}
}

// followAddresses watches until the subscription ends.
func (f *Flannel) followAddresses(ctx context.Context, changed chan<- struct{}, subscribe subscribeFunc) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	updates := make(chan netlink.AddrUpdate, 64)
	if err := subscribe(updates, ctx.Done()); err != nil {
		f.Logger.Error("cannot watch the host's addresses, looking at them each second", "error", err)
		return
	}
	for range updates {
		signal(changed)
	}
}

func signal(changed chan<- struct{}) {
	select {
	case changed <- struct{}{}:
	default:
	}
}
