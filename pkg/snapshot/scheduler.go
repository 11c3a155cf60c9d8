package snapshot

import (
	"context"
	"log/slog"
	"time"

	"skiff/pkg/component"
	"skiff/pkg/status"
)

const (
	// firstAfter is how long the start of a server is left in peace.
	firstAfter = 5 * time.Minute
	// lookEvery is how often the clock is looked at: it may be set meanwhile.
	lookEvery = time.Minute
	// retryAfter is the pause after a failed snapshot.
	retryAfter = 10 * time.Minute

	noteKey = "snapshot"
)

// Scheduler makes snapshots of a running server at an interval and keeps the
// newest of them. Set its fields before Run.
type Scheduler struct {
	Source   Source
	Dir      string
	Interval time.Duration // positive
	Keep     int           // at least 1
	Notes    status.Notes
	Logger   *slog.Logger
}

var _ component.Component = (*Scheduler)(nil)

// Name implements component.Component.
func (s *Scheduler) Name() string { return "snapshots" }

// Run implements component.Component. When the next snapshot is due is read
// from those that are there, so that restarts do not change the rhythm. Within
// the process the monotonic clock has a say, too: were there only the wall
// clock, one that is set back would stop snapshots for years, and one that is
// set forward and back again would make one a minute.
func (s *Scheduler) Run(ctx context.Context) error {
	timer := time.NewTimer(min(firstAfter, s.Interval))
	defer timer.Stop()
	var last time.Time // of the last success in this process
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		pause := min(lookEvery, s.Interval)
		if s.due(last, time.Now()) {
			switch err := s.snapshot(ctx); {
			case ctx.Err() != nil:
				return nil
			case err != nil:
				s.Logger.Error("no snapshot was made", "error", err)
				s.Notes.Set(noteKey, "the last snapshot failed: "+err.Error())
				pause = min(retryAfter, s.Interval)
			default:
				s.Notes.Clear(noteKey)
				last = time.Now()
			}
		}
		timer.Reset(pause)
	}
}

// due reports whether it is time for a snapshot. last carries a monotonic
// reading.
func (s *Scheduler) due(last, now time.Time) bool {
	if !last.IsZero() {
		return now.Sub(last) >= s.Interval || now.Round(0).Sub(last.Round(0)) >= s.Interval
	}
	all, err := List(s.Dir)
	if err != nil {
		return true // Save will say what is wrong.
	}
	for _, i := range all {
		passed := now.Sub(i.Time)
		if i.Kind == Scheduled && i.Problem == "" && passed < s.Interval && passed > -aheadOfTime {
			return false
		}
	}
	return true
}

func (s *Scheduler) snapshot(ctx context.Context) error {
	begin := time.Now()
	info, err := Save(ctx, s.Source, s.Dir, Scheduled)
	if err != nil {
		return err
	}
	s.Logger.Info("snapshot made", "file", info.Path, "size", info.Size, "took", time.Since(begin).Round(time.Millisecond).String())
	removed, err := Prune(s.Dir, Scheduled, s.Keep, time.Now())
	if err != nil {
		s.Logger.Warn("old snapshots could not be removed", "error", err)
	}
	for _, name := range removed {
		s.Logger.Info("old snapshot removed", "name", name)
	}
	return nil
}
