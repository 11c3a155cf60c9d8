// Package signal tells one goroutine that something has happened. However often
// it is told before it looks, it is told once. It knows nothing of what has
// happened, and the one who tells never waits. Start reading at Signal.
package signal

// Signal is received from like any channel.
type Signal chan struct{}

// New returns a Signal that has not been sent.
func New() Signal { return make(Signal, 1) }

// Send has the next receive succeed.
func (s Signal) Send() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// Clear takes the signal back if nobody has received it.
func (s Signal) Clear() {
	select {
	case <-s:
	default:
	}
}
