package upgrade

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"skiff/internal/atomicfile"
)

// Guard is what the service runs before each start while an upgrade is not over.
// It runs the old executable.
type Guard struct {
	Dir Dir
	// Restore puts the snapshot of the journal in the place of the data.
	Restore func(ctx context.Context, s State) error
	// Watch starts a process that is a Watcher.
	Watch  func(ctx context.Context, s State) error
	Logger *slog.Logger
}

// Run decides which executable is about to be started. The service goes on in
// any case, so that an error is only reported.
func (g *Guard) Run(ctx context.Context) error {
	installing := g.Dir.Installing()
	s, err := g.Dir.update(ctx, func(s *State) error { return g.decide(s, installing) })
	if err != nil {
		return err
	}
	switch s.Phase {
	case Prepared:
		return nil // whoever prepares it goes on
	case GoingBack:
		g.Logger.Warn("the upgrade goes back", "from", s.To.Version, "to", s.From.Version, "reason", s.Reason)
		return goBack(ctx, g.Dir, g.Restore)
	case Watched:
		g.Logger.Info("the new version starts", "version", s.To.Version, "start", s.Starts, "of", maxStarts)
		if g.Dir.Watching() {
			return nil
		}
		return g.Watch(ctx, s)
	}
	return g.Dir.disarm()
}

// decide is the guard's part in the journal.
func (g *Guard) decide(s *State, installing bool) error {
	inPlace := s.New.is(s.Target)
	switch {
	case s.Phase == Prepared && !inPlace && !installing:
		s.drop() // the power went before the change
	case s.Phase == Prepared && inPlace:
		s.Phase, s.Starts = Watched, 1 // or right after it
	case s.Phase == Watched && !inPlace:
		s.Phase, s.Ended = Done, time.Now().UTC() // somebody has put yet another one there
	case s.Phase == Watched && s.Starts >= maxStarts:
		s.Phase, s.Reason = GoingBack, fmt.Sprintf("it was started %d times and has not become ready", s.Starts)
	case s.Phase == Watched:
		s.Starts++
	default:
		return errUnchanged
	}
	return nil
}

// goBack puts the old executable, the configuration and, if the journal says so,
// the data back. It may be interrupted and called again, also by another process
// at the same time. skiff must not be running if the data goes back.
func goBack(ctx context.Context, dir Dir, restore func(context.Context, State) error) (err error) {
	lock, err := waitLock(ctx, dir.backLock())
	if err != nil {
		return fmt.Errorf("roll the upgrade back: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	s, err := dir.Read()
	if err != nil || s.Phase != GoingBack {
		return err // somebody else was faster
	}
	if !s.Old.is(s.Target) {
		if !s.Old.is(dir.Previous()) {
			return fmt.Errorf("roll the upgrade back: %s is not the executable of %s that was kept; put that in the place of %s by hand", dir.Previous(), s.From.Version, s.Target)
		}
		if err := duplicate(dir.Previous(), s.Target, returning(s.Target)); err != nil {
			return fmt.Errorf("roll the upgrade back: %w", err)
		}
	}
	// The rest is tried once: the old version had better start without it than not.
	var trouble []error
	if err := dir.restoreConfig(s.To.Version); err != nil {
		trouble = append(trouble, fmt.Errorf("the configuration: %w", err))
	}
	if s.RestoreData {
		if err := restore(ctx, s); err != nil {
			trouble = append(trouble, fmt.Errorf("the data; restore %s by hand (skiff snapshot restore): %w", s.Snapshot, err))
		}
	}
	_, err = dir.update(ctx, func(s *State) error {
		s.Phase, s.Ended = RolledBack, time.Now().UTC()
		if err := errors.Join(trouble...); err != nil {
			s.Trouble = err.Error()
		}
		return nil
	})
	if err != nil {
		return err
	}
	os.Remove(staged(s.Target))
	return errors.Join(dir.disarm(), atomicfile.SyncDir(filepath.Dir(s.Target)))
}
