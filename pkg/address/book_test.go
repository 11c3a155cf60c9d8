package address

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"skiff/pkg/config"
)

// host is a machine whose addresses change.
type host struct {
	addrs []netip.Addr
	err   error
	looks int
	poke  chan struct{}
	fail  chan error
}

func (h *host) facts() (config.Facts, error) {
	h.looks++
	return config.Facts{Hostname: "n1", WorkingDir: "/", RouteAddresses: h.addrs, Addresses: h.addrs}, h.err
}

func (h *host) watch(ctx context.Context, changed func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.poke:
			changed()
		case err := <-h.fail:
			return err
		}
	}
}

func (h *host) set(addrs ...string) {
	h.addrs = nil
	for _, a := range addrs {
		h.addrs = append(h.addrs, netip.MustParseAddr(a))
	}
	h.poke <- struct{}{}
}

func start(t *testing.T, change func(*config.Config), also ...func(*Book)) (*host, *Book) {
	t.Helper()
	h := &host{poke: make(chan struct{}), fail: make(chan error), addrs: []netip.Addr{netip.MustParseAddr("192.0.2.5")}}
	f, _ := h.facts()
	raw := config.Default()
	change(raw)
	cfg, err := raw.Complete(config.RoleServer, f)
	if err != nil {
		t.Fatal(err)
	}
	b := NewBook(cfg, h.facts, slog.New(slog.DiscardHandler))
	b.watch = h.watch
	for _, f := range also {
		f(b)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return h, b
}

func changed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestBookFollowsTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, b := start(t, func(*config.Config) {})
		time.Sleep(time.Minute)
		first, looks := b.Changed(), h.looks
		time.Sleep(time.Hour)
		if h.looks != looks {
			t.Errorf("the host was looked at %d times for nothing", h.looks-looks)
		}

		h.set() // the old lease goes, and a moment later there is another
		time.Sleep(settle / 2)
		h.set("192.0.2.9")
		time.Sleep(settle / 2)
		if changed(first) {
			t.Error("the book changed while the host's addresses did")
		}
		time.Sleep(settle)
		if got := b.Node()[0].String(); got != "192.0.2.9" || !changed(first) || b.Advertised().String() != got {
			t.Errorf("the node has %s and advertises %s, want 192.0.2.9; told: %t", got, b.Advertised(), changed(first))
		}

		second := b.Changed()
		h.set() // the cable is out for a while
		time.Sleep(time.Hour)
		if got := b.Node()[0].String(); got != "192.0.2.9" || changed(second) {
			t.Errorf("without a cable the node has %s", got)
		}
		h.set("192.0.2.10")
		time.Sleep(time.Second)
		if got := b.Node()[0].String(); got != "192.0.2.10" || !changed(second) {
			t.Errorf("afterwards the node has %s, want 192.0.2.10", got)
		}
	})
}

// TestFollowers are told of every change of the host, also where the node's
// addresses are fixed.
func TestFollowers(t *testing.T) {
	for _, fixed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			old, next := netip.MustParseAddr("192.0.2.5"), netip.MustParseAddr("198.51.100.7")
			var told [][2]bool
			h, b := start(t, func(c *config.Config) {
				if fixed {
					c.Node.IP = []netip.Addr{old}
				}
			}, func(b *Book) {
				b.present = func() ([]net.Addr, error) {
					return []net.Addr{&net.IPNet{IP: net.ParseIP("198.51.100.7"), Mask: net.CIDRMask(24, 32)}}, nil
				}
				b.Follow(func(has func(netip.Addr) bool) { told = append(told, [2]bool{has(old), has(next)}) })
			})
			time.Sleep(time.Second)
			h.poke <- struct{}{}
			time.Sleep(time.Second)
			if want := [][2]bool{{false, true}, {false, true}}; !slices.Equal(told, want) {
				t.Errorf("fixed %t: told %v, want %v", fixed, told, want)
			}
			if fixed && b.Node()[0] != old {
				t.Errorf("an address that the user chose has become %v", b.Node())
			}
		})
	}
}

func TestBookSurvivesItsWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, b := start(t, func(*config.Config) {})
		time.Sleep(time.Minute)
		h.addrs = []netip.Addr{netip.MustParseAddr("192.0.2.9")}
		h.fail <- errors.New("no buffer space") // and the message was lost with it
		time.Sleep(time.Second)
		if got := b.Node()[0].String(); got != "192.0.2.9" {
			t.Errorf("the node has %s, want 192.0.2.9", got)
		}
		h.err = errors.New("no netlink")
		h.poke <- struct{}{}
		time.Sleep(time.Second)
		if b.Ready(t.Context()) == nil || b.Node()[0].String() != "192.0.2.9" {
			t.Errorf("after a failed look: %v, %v", b.Ready(t.Context()), b.Node())
		}
		h.err = nil
		h.set("192.0.2.10")
		time.Sleep(time.Second)
		if err := b.Ready(t.Context()); err != nil || b.Node()[0].String() != "192.0.2.10" {
			t.Errorf("afterwards: %v, %v", err, b.Node())
		}
	})
}

func TestBookKeepsWhatTheUserChose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b := start(t, func(c *config.Config) { c.Node.IP = []netip.Addr{netip.MustParseAddr("192.0.2.5")} })
		time.Sleep(time.Minute)
		if got, err := b.First(); err != nil || got.String() != "192.0.2.5" {
			t.Errorf("the node has %s (%v)", got, err)
		}
	})
}
