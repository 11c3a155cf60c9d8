// Package backoff yields growing pauses between attempts. It knows nothing of
// what is attempted. Start reading at Sequence.
package backoff

import (
	"context"
	"time"

	"skiff/internal/pause"
)

// Sequence yields Min, 2·Min, 4·Min … up to Max. The zero Sequence yields 0.
// It is not safe for concurrent use.
type Sequence struct {
	Min, Max time.Duration
	next     time.Duration
}

// Next returns the pause before the next attempt.
func (s *Sequence) Next() time.Duration {
	d := max(s.next, s.Min)
	if s.Max > 0 {
		d = min(d, s.Max)
	}
	s.next = d * 2
	return d
}

// Reset starts the sequence again at Min.
func (s *Sequence) Reset() { s.next = 0 }

// Wait pauses for Next. It returns the cause of ctx when that ends first.
func (s *Sequence) Wait(ctx context.Context) error {
	if !pause.For(ctx, s.Next()) {
		return context.Cause(ctx)
	}
	return nil
}
