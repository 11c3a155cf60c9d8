package join

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"sync"
	"time"

	"skiff/internal/backoff"
	"skiff/internal/signal"
	"skiff/pkg/component"
)

// How often a Member looks at the clock, and asks the server although nothing
// is due: settings may have changed.
const (
	lookEvery = time.Minute
	askEvery  = time.Hour
	// askSpread is within which time nodes ask whose server has come back.
	askSpread = 3 * time.Second
	// retryMin and retryMax bound the pause between failed attempts; a node that
	// has never joined, which somebody may be waiting for, is less patient.
	retryMin   = 500 * time.Millisecond
	retryMax   = time.Minute
	retryFirst = 5 * time.Second
)

// Member joins a node and keeps its identity fresh for as long as it runs. It
// is ready once there is a Bundle.
type Member struct {
	Client *Client
	Node   NodeInfo
	// Addresses gives those of the node at this moment, and Moved a channel that
	// is closed when there are others: then the node asks at once for
	// certificates that name them. Without them they are Node's.
	Addresses func() []netip.Addr
	Moved     func() <-chan struct{}
	// Jumped returns a channel that is closed when the clock is set; it may be
	// nil.
	Jumped func() <-chan struct{}
	// FromDisk makes the Member ready at once with what is on disk, if the node
	// has joined before; the server is asked afterwards.
	FromDisk bool
	// Changed is called after the first join, after each renewal, and when the
	// cluster's settings are others; it may be nil. Components that read
	// certificates from files need no call.
	Changed func(*Bundle)
	Logger  *slog.Logger

	once sync.Once
	wish signal.Signal // see asked

	mu     sync.Mutex
	bundle *Bundle // guarded by mu
	err    error   // guarded by mu: of the last attempt
}

var (
	_ component.Component = (*Member)(nil)
	_ component.Readier   = (*Member)(nil)
)

// Name implements component.Component.
func (m *Member) Name() string { return "join" }

// Ready implements component.Readier.
func (m *Member) Ready(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bundle != nil {
		return nil
	}
	if m.err != nil {
		return m.err
	}
	return errors.New("waiting for the server's answer")
}

// Bundle returns the node's identity, nil until the Member is ready.
func (m *Member) Bundle() *Bundle {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bundle
}

// Run implements component.Component.
func (m *Member) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	pauses := backoff.Sequence{Min: retryMin, Max: retryMax}
	if !m.begin() {
		pauses.Max = retryFirst
	}
	var last time.Time
	moved, jumped := channel(m.Moved), channel(m.Jumped)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-moved:
			moved = channel(m.Moved)
			last = time.Time{} // Ask, whatever is due.
		case <-jumped:
			jumped = channel(m.Jumped)
			last = time.Time{}
		case <-m.asked():
			last = time.Time{}
			timer.Reset(rand.N(askSpread))
			continue
		}
		now := m.Client.serverNow()
		if !m.isDue(now, last) {
			timer.Reset(m.wait(now))
			continue
		}
		if m.attempt(ctx) {
			pauses = backoff.Sequence{Min: retryMin, Max: retryMax}
			last = m.Client.serverNow()
			timer.Reset(m.wait(last))
			continue
		}
		timer.Reset(pauses.Next())
	}
}

// Ask makes the Member ask the server soon although nothing is due, but not
// at the same moment as all others.
func (m *Member) Ask() {
	m.asked().Send()
}

func (m *Member) asked() signal.Signal {
	m.once.Do(func() { m.wish = signal.New() })
	return m.wish
}

func channel(f func() <-chan struct{}) <-chan struct{} {
	if f == nil {
		return nil
	}
	return f()
}

// begin takes what is on disk, and reports whether there is anything.
func (m *Member) begin() bool {
	if !m.FromDisk {
		return false
	}
	b, why := m.Client.Stored(m.Node)
	if b == nil {
		m.Logger.Info("nothing usable from an earlier time", "reason", why)
		return false
	}
	m.mu.Lock()
	m.bundle = b
	m.mu.Unlock()
	return true
}

// wait is how long to wait until the next look.
func (m *Member) wait(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return min(max(m.bundle.RenewAt.Sub(now), time.Second), lookEvery)
}

func (m *Member) isDue(now, last time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bundle == nil || m.err != nil || last.IsZero() {
		return true
	}
	passed := now.Sub(last)
	return passed >= askEvery || passed < -lookEvery || (!now.Before(m.bundle.RenewAt) && last.Before(m.bundle.RenewAt))
}

// attempt joins once and reports whether the server confirmed.
func (m *Member) attempt(ctx context.Context) bool {
	node := m.Node
	if m.Addresses != nil {
		node.Addresses = m.Addresses()
	}
	b, err := m.Client.Join(ctx, node)
	if ctx.Err() != nil {
		return false
	}
	if err == nil && b.Stale != nil {
		err = b.Stale
	}
	m.mu.Lock()
	old, oldErr := m.bundle, m.err
	m.err = err
	if b != nil {
		m.bundle = b
	}
	m.mu.Unlock()
	m.log(old, b, oldErr, err)
	if b != nil && m.Changed != nil && (old == nil || !old.RenewAt.Equal(b.RenewAt) || !reflect.DeepEqual(old.Cluster, b.Cluster)) {
		m.Changed(b)
	}
	return err == nil
}

// log tells what changed, not every attempt.
func (m *Member) log(old, b *Bundle, oldErr, err error) {
	switch {
	case err != nil && oldErr != nil:
		m.Logger.Debug("server still does not confirm this node", "error", err)
	case err != nil && b != nil:
		m.Logger.Warn("going on with the certificates on disk", "error", err)
	case err != nil:
		m.Logger.Warn("node has not joined yet, trying again", "error", err)
	case oldErr != nil || old == nil:
		m.Logger.Info("node has joined", "node", b.Node, "renew", b.RenewAt.Format(time.DateOnly))
	case !old.RenewAt.Equal(b.RenewAt):
		m.Logger.Info("node certificates renewed", "node", b.Node, "renew", b.RenewAt.Format(time.DateOnly))
	}
}
