package flannel

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"
)

// TestAddressesAreWatchedAgain ends the subscription, as the kernel does when
// it is not read fast enough.
func TestAddressesAreWatchedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		subscriptions := make(chan chan<- netlink.AddrUpdate)
		changed := make(chan struct{}, 1)
		done := make(chan struct{})
		go func() {
			defer close(done)
			watch(ctx, changed, slog.New(slog.DiscardHandler), func(updates chan<- netlink.AddrUpdate, ended <-chan struct{}) error {
				mine := make(chan netlink.AddrUpdate)
				go func() {
					defer close(updates)
					select {
					case subscriptions <- mine:
					case <-ended:
						return
					}
					for {
						select {
						case u, ok := <-mine:
							if !ok {
								return
							}
							updates <- u
						case <-ended:
							return
						}
					}
				}()
				return nil
			}, func(netlink.AddrUpdate) bool { return true })
		}()
		for range 3 {
			updates := <-subscriptions
			updates <- netlink.AddrUpdate{}
			<-changed
			begin := time.Now()
			close(updates)
			<-changed // what was missed is a change
			if wait := time.Since(begin); wait > 0 {
				t.Errorf("the end of the watch was noticed after %s", wait)
			}
		}
		cancel()
		<-done
	})
}
