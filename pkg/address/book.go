// Package address knows this node's addresses and follows the host's: a lease
// that gives another address, a cable that moves, a first interface. Who must
// know asks the Book and waits for its changes. It must not know what depends
// on addresses. Start reading at Book.
package address

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"skiff/internal/netx"
	"skiff/internal/pause"
	"skiff/internal/signal"
	"skiff/pkg/component"
	"skiff/pkg/config"
)

const (
	// settle is how long the host's addresses must be left alone before they
	// are looked at: a new lease takes the old address away first.
	settle = 300 * time.Millisecond
	// againAfter is how long a broken watch rests.
	againAfter = time.Second
)

// Book holds the node's addresses, one for each IP family of the pods, primary
// first. Make it with NewBook.
type Book struct {
	cfg    config.Completed
	facts  func() (config.Facts, error)
	watch  func(ctx context.Context, changed func()) error
	logger *slog.Logger

	followers []func(has func(netip.Addr) bool)
	present   func() ([]net.Addr, error)

	mu      sync.Mutex
	node    []netip.Addr  // guarded by mu
	changed chan struct{} // guarded by mu: closed and replaced at each change
	lastErr error         // guarded by mu: of the last look
}

var (
	_ component.Component = (*Book)(nil)
	_ component.Readier   = (*Book)(nil)
)

// NewBook returns a book with the addresses that the configuration was
// completed with. facts is asked when the host's addresses have changed.
func NewBook(cfg config.Completed, facts func() (config.Facts, error), logger *slog.Logger) *Book {
	return &Book{
		cfg: cfg, facts: facts, watch: netx.Watch, present: net.InterfaceAddrs, logger: logger,
		node: slices.Clone(cfg.Node.IP), changed: make(chan struct{}),
	}
}

// Fixed returns a book in which nothing ever changes.
func Fixed(cfg config.Completed) *Book { return NewBook(cfg, nil, nil) }

// Node returns the node's addresses.
func (b *Book) Node() []netip.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.node)
}

// Advertised returns the address at which other nodes find this server.
func (b *Book) Advertised() netip.Addr { return b.cfg.Advertise(b.Node()) }

// Changed returns a channel that is closed at the next change. Take it before
// asking for the addresses, and none is missed.
func (b *Book) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// Follow has f called whenever the host's addresses may have changed, those of
// the node or not, to which it says whether the host has an address. Call it
// before Run; f must not block.
func (b *Book) Follow(f func(has func(netip.Addr) bool)) { b.followers = append(b.followers, f) }

// Name implements component.Component.
func (b *Book) Name() string { return "addresses" }

// Ready implements component.Readier.
func (b *Book) Ready(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lastErr
}

// Run implements component.Component: it follows the host's addresses until
// ctx ends. With addresses that the user chose it does so for others only.
func (b *Book) Run(ctx context.Context) error {
	if !b.cfg.ChosenIP && b.followers == nil {
		<-ctx.Done()
		return nil
	}
	events := signal.New()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for {
			err := b.watch(ctx, events.Send)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				b.logger.Warn("cannot watch the host's addresses, looking at them each second", "error", err)
			}
			events.Send() // what was missed is a change
			if !pause.For(ctx, againAfter) {
				return
			}
		}
	})
	events.Send() // the configuration was completed some time ago
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
		}
		if !pause.Quiet(ctx, events, settle) {
			return nil
		}
		b.tell()
		if b.cfg.ChosenIP {
			b.look()
		}
	}
}

// tell tells the followers what the host has.
func (b *Book) tell() {
	if b.followers == nil {
		return
	}
	list, err := b.present()
	if err != nil {
		b.logger.Debug("the host's addresses cannot be listed", "error", err)
		return
	}
	here := make(map[netip.Addr]bool, len(list))
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				here[ip.Unmap()] = true
			}
		}
	}
	for _, f := range b.followers {
		f(func(a netip.Addr) bool { return here[a] })
	}
}

// look compares the book with the host.
func (b *Book) look() {
	f, err := b.facts()
	if err == nil && len(f.Addresses) == 0 && len(f.RouteAddresses) == 0 {
		b.logger.Debug("the host has no address, the node keeps its own")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("look at the host's addresses: %w", err)
		if b.lastErr == nil {
			b.logger.Warn("the node keeps the addresses it had", "error", err)
		}
		b.lastErr = err
		return
	}
	b.lastErr = nil
	next := b.cfg.Readdress(f, b.node)
	if slices.Equal(next, b.node) {
		return
	}
	b.logger.Info("the node's address has changed", "from", b.node, "to", next)
	b.node = next
	close(b.changed)
	b.changed = make(chan struct{})
}

// ErrNone is returned by First for a book without addresses.
var ErrNone = errors.New("the node has no address")

// First returns the primary address.
func (b *Book) First() (netip.Addr, error) {
	list := b.Node()
	if len(list) == 0 {
		return netip.Addr{}, ErrNone
	}
	return list[0], nil
}
