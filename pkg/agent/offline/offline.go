// Package offline lets a node start and go on without a server: a transport
// between this process' Kubernetes clients and the API server that keeps, on
// disk and encrypted, the answers the node would need to start again, and
// gives them when no server is in reach. It knows paths and bodies of the API,
// but neither the components that ask nor how a server is found. Start reading
// at Cache; transport.go is the way of a request, fold.go what is kept of its
// answer and answer.go what is said without a server. DESIGN.md has the
// reasoning.
package offline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"skiff/internal/signal"
	"skiff/pkg/agent/offline/journal"
	"skiff/pkg/component"
	"skiff/pkg/pki"
)

// Notes takes lines for `skiff status`; status.Notes satisfies it.
type Notes interface {
	Set(key, message string)
	Clear(key string)
}

// Keys of notes.
const (
	noteLink  = "offline/link"
	noteWrite = "offline/write"
	noteSize  = "offline/size"
)

// Options is what New needs.
type Options struct {
	// Dir is a directory for this package alone.
	Dir string
	// NodeName is whose pods are the node's own.
	NodeName string
	// Secret returns what the key of the file is derived from; it is asked
	// when the Cache runs.
	Secret func() ([]byte, error)
	// Kubeconfigs are copied so that their clients go by the Cache; see
	// Cache.Kubeconfig.
	Kubeconfigs []string
	// Onward is what requests to the server go by, around client-go's
	// transport; it may be nil.
	Onward func(http.RoundTripper) http.RoundTripper
	// Limit bounds what is kept, in bytes; default DefaultLimit.
	Limit int64
	Notes Notes
	// Changed is told, without delay, when a server is found or lost; it may be
	// nil.
	Changed func(online bool)
	Logger  *slog.Logger
}

// Cache is what the node knows of the API. Its transports work while it runs.
type Cache struct {
	o    Options
	now  func() time.Time
	link *link

	opened chan struct{} // closed when requests can be answered
	kick   signal.Signal // something is to be written

	mu      sync.Mutex
	state   *state           // guarded by mu
	journal *journal.Journal // guarded by mu
	failing bool             // guarded by mu; the last write failed
	refused map[string]bool  // guarded by mu; streams that are too much
}

var (
	_ component.Component = (*Cache)(nil)
	_ component.Readier   = (*Cache)(nil)
)

// New returns a Cache that has not read anything.
func New(o Options) *Cache {
	if o.Limit == 0 {
		o.Limit = DefaultLimit
	}
	c := &Cache{
		o: o, now: time.Now, state: newState(), refused: map[string]bool{},
		opened: make(chan struct{}), kick: signal.New(),
	}
	c.link = newLink(c.linkChanged, c.noteLink)
	return c
}

// Name implements component.Component.
func (c *Cache) Name() string { return "offline" }

// Ready implements component.Readier: what the node knows has been read.
func (c *Cache) Ready(context.Context) error {
	select {
	case <-c.opened:
		return nil
	default:
		return errors.New("what the node knows has not been read yet")
	}
}

// Offline reports whether it is known that no server is in reach.
func (c *Cache) Offline() bool { return c.link.offline() }

// Run implements component.Component. It can be run once.
func (c *Cache) Run(ctx context.Context) error {
	if err := c.register(); err != nil {
		return err
	}
	return c.run(ctx)
}

func (c *Cache) run(ctx context.Context) error {
	if err := c.open(); err != nil {
		return err
	}
	close(c.opened)
	var wg sync.WaitGroup
	wg.Go(func() { c.link.run(ctx) })
	c.keep(ctx)
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.flush(), c.journal.Close())
}

// open reads what is on disk. A file that is of no use is no reason not to
// start: it begins anew.
func (c *Cache) open() error {
	secret, err := c.o.Secret()
	if err != nil {
		return fmt.Errorf("read the key for what this node knows: %w", err)
	}
	if err := os.MkdirAll(c.o.Dir, 0o700); err != nil {
		return fmt.Errorf("make directory for what this node knows: %w", err)
	}
	if err := c.writeKubeconfigs(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	j, found, err := journal.Open(filepath.Join(c.o.Dir, "state"), secret, c.state.replay)
	if err != nil {
		return fmt.Errorf("open what this node knows: %w", err)
	}
	c.journal = j
	c.state.settle()
	for _, st := range c.state.streams {
		st.used = c.now()
	}
	switch {
	case found.Foreign:
		c.o.Logger.Warn("what this node knew cannot be read with its present key and is given up", "damaged", found.Damaged)
	case found.Damaged > 0:
		c.o.Logger.Warn("part of what this node knew cannot be read any more", "damaged", found.Damaged, "records", found.Records)
	}
	c.o.Logger.Info("read what this node knows", "lists", len(c.state.streams), "bytes", c.state.live, "file", j.Size())
	return nil
}

// wake has what has changed written in time. The caller holds mu.
func (c *Cache) wake() {
	c.kick.Send()
}

// keep writes what changes until ctx ends.
func (c *Cache) keep(ctx context.Context) {
	write := time.NewTimer(time.Hour)
	defer write.Stop()
	collect := time.NewTicker(collectEvery)
	defer collect.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.kick:
		case <-write.C:
		case <-collect.C:
			if !c.link.offline() {
				c.mu.Lock()
				c.collect()
				c.mu.Unlock()
			}
		}
		c.mu.Lock()
		wait := time.Hour
		if due := c.state.due; !due.IsZero() {
			if wait = due.Sub(c.now()); wait <= 0 || wait > time.Hour { // The clock may have been set.
				c.save()
				wait = time.Hour
				if !c.state.due.IsZero() {
					wait = writeAgain
				}
			}
		}
		c.mu.Unlock()
		write.Reset(wait)
	}
}

const collectEvery = 10 * time.Minute

// linkChanged tells people.
func (c *Cache) linkChanged(online bool, why error) {
	if c.o.Changed != nil {
		c.o.Changed(online)
	}
	if online {
		c.o.Logger.Info("a server is in reach")
		c.o.Notes.Clear(noteLink)
		return
	}
	if errors.Is(why, context.Canceled) {
		return // The end.
	}
	c.o.Logger.Warn("no server is in reach; the node goes on with what it knows", "error", why)
	c.noteLink(why)
}

// noteLink has `skiff status` say that no server is in reach. The reason may be
// another than at first.
func (c *Cache) noteLink(why error) {
	note := "no server is in reach: the node runs what it ran before, and changes made elsewhere do not come here"
	if foreign, ok := errors.AsType[*pki.ForeignError](pki.Foreign(why)); ok {
		note += "; " + foreign.Error()
	}
	c.o.Notes.Set(noteLink, note)
}
