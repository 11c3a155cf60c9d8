package shared

import (
	"sync/atomic"
	"time"
)

const (
	// idleListening is how often to look although others tell of their
	// changes; deaf how often while that cannot be heard.
	idleListening = 10 * time.Second
	deaf          = time.Second
	// busy is how soon to look again after somebody else's change in a
	// database that cannot tell of the next, and idle how late.
	busy = 20 * time.Millisecond
	idle = 250 * time.Millisecond
	// silence is how long others are taken to be silent, as kine is, after one
	// was, and after the start.
	silence = 5 * time.Minute
)

// pace says when to look for changes of other servers.
type pace struct {
	canListen   bool
	listening   atomic.Bool
	silentUntil time.Time // another server changes things and does not tell
	wait        time.Duration
}

func (p *pace) init(canListen bool) {
	p.canListen, p.wait, p.silentUntil = canListen, idle, time.Now().Add(silence)
}

// next is how long to wait after a look. found says that there was something,
// told that somebody had said so.
func (p *pace) next(found, told bool) time.Duration {
	if p.canListen {
		if found && !told && p.listening.Load() {
			p.silentUntil = time.Now().Add(silence)
		}
		if p.listening.Load() && time.Now().After(p.silentUntil) {
			return idleListening
		}
		return deaf
	}
	switch {
	case told: // Our own change says nothing about the others.
	case found:
		p.wait = busy
	default:
		p.wait = min(p.wait*3/2, idle)
	}
	return p.wait
}
