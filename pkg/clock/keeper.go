// Package clock knows what time it is, as far as a machine can know that has no
// battery for its clock, or a wrong one: which moments have certainly passed
// (Keeper.Floor), and when the clock has been set (Keeper.Jumped). It must not
// know what depends on the time. Start reading at Keeper; DESIGN.md says why it
// believes what.
package clock

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"skiff/internal/signal"
	"skiff/pkg/component"
	"skiff/pkg/status"
)

// How long a clock must have run undisturbed until it is believed.
const (
	// settled is when what a jump has changed may be tidied up, and when a clock
	// that is ahead of the last known time is believed.
	settled = time.Hour
	// believed is when a clock that is behind the last known time is.
	believed = 24 * time.Hour
)

const (
	// writeEvery is how far the time on disk may lag behind.
	writeEvery = 12 * time.Hour
	// leastJump is what counts as one; less is a correction.
	leastJump = 2 * time.Second
	// leastNoted is a jump, or a difference to a server, that a person should
	// know of.
	leastNoted = time.Minute
)

// The keys of the notes.
const (
	noteClock  = "clock"
	noteJump   = "clock/jump"
	noteServer = "clock/server"
)

// Options is what New needs.
type Options struct {
	// File is where the last known time is kept.
	File string
	// Built is when this skiff was made: no clock may show less.
	Built  time.Time
	Notes  status.Notes
	Logger *slog.Logger
	// Source is the machine's clock; nil means the real one.
	Source Source
}

// Source is a machine's clock.
type Source interface {
	// Now is what the clock shows.
	Now() time.Time
	// Elapsed counts on whatever happens to the clock, also while the machine
	// sleeps.
	Elapsed() time.Duration
	// Synchronized reports whether a time server keeps the clock right.
	Synchronized() bool
	// Set sets the clock.
	Set(t time.Time) error
	// Watch calls set when the clock has been set, until ctx ends.
	Watch(ctx context.Context, set func()) error
}

// Keeper keeps the last known time. New makes one.
type Keeper struct {
	o Options

	mu sync.Mutex // guards what is below
	// known is a moment that has certainly passed, onDisk what of it is kept.
	known, onDisk time.Time
	last          reading
	// quiet is the elapsed time when the clock was last seen to jump, or when
	// this process began; jumps tells the two apart.
	quiet time.Duration
	jumps int
	// steady is the clock as it was before the jumps that have not settled.
	steady  reading
	changed chan struct{} // closed and replaced at each jump
}

// reading is what a clock showed at some moment.
type reading struct {
	wall    time.Time
	elapsed time.Duration
}

// at tells what the clock would show later if nobody had set it.
func (r reading) at(elapsed time.Duration) time.Time { return r.wall.Add(elapsed - r.elapsed) }

var (
	_ component.Component = (*Keeper)(nil)
	_ component.Readier   = (*Keeper)(nil)
)

// New reads the last known time and has a first look at the clock. A clock that
// shows a time before this skiff was built is set to the last known time, if
// the machine allows: nothing closer to the truth is at hand, and little works
// in 1970.
func New(o Options) *Keeper {
	if o.Source == nil {
		o.Source = machine{}
	}
	k := &Keeper{o: o, changed: make(chan struct{})}
	last, err := read(o.File)
	if err != nil {
		o.Logger.Warn("the last known time cannot be read", "error", err)
	}
	k.known, k.onDisk = latest(o.Built, last), last
	k.last = k.read()
	if k.last.wall.Before(o.Built) {
		k.advance()
	}
	k.quiet = k.last.elapsed
	k.learn()
	k.judge()
	return k
}

func (k *Keeper) read() reading {
	return reading{k.o.Source.Now().Round(0), k.o.Source.Elapsed()} // Without Go's own count of what has passed.
}

// advance sets a clock that is certainly wrong.
func (k *Keeper) advance() {
	showed := k.last.wall
	if err := k.o.Source.Set(k.known); err != nil {
		k.o.Logger.Warn("the clock shows a time before this skiff was built, and cannot be set", "shows", text(showed), "known", text(k.known), "error", err)
		return
	}
	k.o.Logger.Warn("the clock showed a time before this skiff was built; it has been set to the last known time", "showed", text(showed), "set", text(k.known))
	k.o.Notes.Set(noteJump, fmt.Sprintf("the clock showed %s at the start and was set to the last known time, %s", text(showed), text(k.known)))
	k.last = k.read()
	k.steady, k.jumps = k.last, 1
}

// Floor returns a moment that has certainly passed.
func (k *Keeper) Floor() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.known
}

// Settled reports whether the clock has run undisturbed for a while and is not
// behind, so that what is not urgent may be done by it.
func (k *Keeper) Settled() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.settled() && !k.o.Source.Now().Before(k.known)
}

func (k *Keeper) settled() bool { return k.jumps == 0 || k.o.Source.Elapsed()-k.quiet >= settled }

// Earlier returns what the clock shows, or, for as long as a jump forward has
// not settled, what it would show without it: what begins then is valid also
// if the jump is taken back.
func (k *Keeper) Earlier() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.read()
	if k.settled() {
		return now.wall
	}
	return earliest(now.wall, k.steady.at(now.elapsed))
}

// Jumped returns a channel that is closed when the clock jumps.
func (k *Keeper) Jumped() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changed
}

// Heard takes note of the time of a server that has proven to be one. A node
// that knows its own clock to be behind learns from it.
func (k *Keeper) Heard(server string, theirs time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ours := k.o.Source.Now().Round(0)
	if ours.Before(k.known) && theirs.After(k.known) {
		k.known = theirs
		k.judge()
	}
	by := ours.Sub(theirs)
	if by.Abs() < leastNoted {
		k.o.Notes.Clear(noteServer)
		return
	}
	way := "behind"
	if by > 0 {
		way = "ahead of"
	}
	k.o.Notes.Set(noteServer, fmt.Sprintf("this machine's clock is %s %s that of the server %s; certificates are judged by the server's", span(by), way, server))
}

// Name implements component.Component.
func (k *Keeper) Name() string { return "clock" }

// Ready implements component.Readier.
func (k *Keeper) Ready(context.Context) error { return nil }

// Run implements component.Component: it follows the clock until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	set := signal.New()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		err := k.o.Source.Watch(ctx, set.Send)
		if err != nil {
			k.o.Logger.Warn("cannot watch the clock, looking at it each hour", "error", err)
		}
	})
	hourly := time.NewTicker(settled)
	defer hourly.Stop()
	for {
		k.look(writeEvery)
		select {
		case <-ctx.Done():
			k.look(settled)
			return nil
		case <-set:
		case <-hourly.C:
		}
	}
}

// look compares the clock with the last look, and writes down what is known if
// the time on disk lags behind by more than lag.
func (k *Keeper) look(lag time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.read()
	before := k.last
	k.last = now
	if by := now.wall.Sub(before.at(now.elapsed)); by.Abs() >= leastJump {
		k.jump(before, by)
	} else if k.settled() {
		k.o.Notes.Clear(noteJump)
	}
	k.learn()
	k.judge()
	if k.known.Sub(k.onDisk).Abs() < lag {
		return
	}
	if err := write(k.o.File, k.known); err != nil {
		k.o.Logger.Warn("the last known time cannot be written", "error", err)
		return
	}
	k.onDisk = k.known
}

// jump takes note of the clock having been set; mu is held.
func (k *Keeper) jump(before reading, by time.Duration) {
	if k.settled() {
		k.steady = before
	}
	k.jumps++
	k.quiet = k.last.elapsed
	close(k.changed)
	k.changed = make(chan struct{})
	way := "forward"
	if by < 0 {
		way = "back"
	}
	k.o.Logger.Info("the clock has been set", "by", by.Round(time.Millisecond), "to", text(k.last.wall), "synchronized", k.o.Source.Synchronized())
	if by.Abs() >= leastNoted {
		k.o.Notes.Set(noteJump, fmt.Sprintf("the clock was set %s by %s, to %s; certificates and tokens stay valid by both times", way, span(by), text(k.last.wall)))
	}
}

// learn moves the known time, if the clock can be believed; mu is held.
func (k *Keeper) learn() {
	wall, quiet := k.last.wall, k.last.elapsed-k.quiet
	switch {
	case wall.Before(k.o.Built):
	case k.o.Source.Synchronized():
		k.known = wall
	case !wall.Before(k.known):
		if quiet >= settled || wall.Sub(k.known) <= believed {
			k.known = wall
		}
	case quiet >= believed:
		k.known = wall
	}
}

// judge says whether the clock is behind; mu is held, or nobody else is there.
func (k *Keeper) judge() {
	by := k.known.Sub(k.last.wall)
	if by < leastNoted {
		k.o.Notes.Clear(noteClock)
		return
	}
	k.o.Notes.Set(noteClock, fmt.Sprintf("the clock shows %s, but it has been %s already; set the clock, or let a time server do it", text(k.last.wall), text(k.known)))
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func text(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }

// span writes a duration as people say it.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	if d = d.Abs(); d >= 2*day {
		return fmt.Sprintf("%d days", int(d/day))
	}
	return d.Round(time.Second).String()
}
