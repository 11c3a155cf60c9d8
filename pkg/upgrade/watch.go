package upgrade

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"skiff/internal/lockfile"
	"skiff/internal/pause"
)

// askEvery is how often a new version is asked how it is.
const askEvery = time.Second

// Watcher decides whether a new version stays. It runs the old executable, in a
// process that is no part of the service.
type Watcher struct {
	Dir     Dir
	Restore func(ctx context.Context, s State) error
	Logger  *slog.Logger
}

// Run watches until the upgrade is over, and sees to it that the service runs
// then. It returns at once if another one watches.
func (w *Watcher) Run(ctx context.Context) (err error) {
	lock, err := takeLock(ctx, w.Dir.watchLock())
	if _, held := errors.AsType[*lockfile.HeldError](err); held {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch the new version: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	s, err := w.Dir.Read()
	if err != nil {
		return err
	}
	if s.Phase == Watched {
		if s, err = w.watch(ctx, s); err != nil {
			return err
		}
	}
	switch s.Phase {
	case GoingBack:
		w.Logger.Warn("the upgrade goes back", "from", s.To.Version, "to", s.From.Version, "reason", s.Reason)
		return w.back(ctx, s)
	case Done:
		w.Logger.Info("the upgrade is complete", "version", s.To.Version)
	}
	return nil
}

// watch waits until the new version has been well for long enough, or not been
// so for too long.
func (w *Watcher) watch(ctx context.Context, s State) (State, error) {
	deadline := time.Now().Add(s.Limit)
	var since time.Time // well since; zero while it is not
	for {
		h := askHealth(ctx, s.Service.Socket, s.New)
		now := time.Now()
		switch well := h.New && (h.Ready || s.Undemanding); {
		case !well:
			since = time.Time{}
		case since.IsZero():
			since = now
		}
		if !since.IsZero() && now.Sub(since) >= s.Settle {
			return w.decide(ctx, Done, "")
		}
		if since.IsZero() && now.After(deadline) {
			return w.decide(ctx, GoingBack, fmt.Sprintf("it was not well after %s: %s", s.Limit, why(h)))
		}
		if !pause.For(ctx, askEvery) {
			return s, fmt.Errorf("watch the new version: %w", context.Cause(ctx))
		}
		var err error
		if s, err = w.Dir.Read(); err != nil || s.Phase != Watched {
			return s, err // the guard, or a person, has decided
		}
	}
}

func why(h Health) string {
	switch {
	case h.PID != 0 && !h.New:
		return "still running is " + h.Version
	case h.Why != "":
		return h.Why
	}
	return "it does not stay ready"
}

// decide writes down how it ends, unless that has been decided meanwhile.
func (w *Watcher) decide(ctx context.Context, end Phase, reason string) (State, error) {
	s, err := w.Dir.update(ctx, func(s *State) error {
		if s.Phase != Watched {
			return errUnchanged
		}
		s.Phase, s.Reason = end, reason
		if end.Ended() {
			s.Ended = time.Now().UTC()
		}
		return nil
	})
	if err == nil && s.Phase == Done {
		err = w.Dir.disarm()
	}
	return s, err
}

// back stops the service, puts everything back and starts it again. Where the
// guard does the same because the service is being started, one of them waits.
func (w *Watcher) back(ctx context.Context, s State) error {
	stopErr := s.Service.Stop(ctx)
	if err := goBack(ctx, w.Dir, w.Restore); err != nil {
		return errors.Join(stopErr, err)
	}
	return errors.Join(stopErr, s.Service.Start(ctx))
}

// Rollback takes the last upgrade back because a person wants that.
func (w *Watcher) Rollback(ctx context.Context, reason string, restoreData bool) error {
	_, err := w.Dir.update(ctx, func(s *State) error {
		switch {
		case s.Phase == GoingBack:
			return errUnchanged
		case s.Phase != Done && s.Phase != Watched:
			return fmt.Errorf("roll back: there is nothing to take back. %s", s.Text())
		case !s.New.is(s.Target):
			return fmt.Errorf("roll back: %s is not the executable any more that the upgrade to %s has put there", s.Target, s.To.Version)
		case !s.Old.is(w.Dir.Previous()):
			return fmt.Errorf("roll back: the executable of %s is not in %s any more", s.From.Version, w.Dir.Previous())
		case restoreData && s.Snapshot == "":
			return errors.New("roll back: there is no snapshot from before the upgrade; leave --restore-data out")
		}
		if restoreData {
			if _, err := os.Stat(s.Snapshot); err != nil {
				return fmt.Errorf("roll back: the snapshot from before the upgrade is gone: %w", err)
			}
			s.RestoreData = true
		}
		s.Phase, s.Reason, s.Ended = GoingBack, reason, time.Time{}
		return nil
	})
	if err != nil {
		return err
	}
	// Until it is over the guard sees to it, should this process end.
	if err := w.Dir.arm(); err != nil {
		return err
	}
	s, err := w.Dir.Read()
	if err != nil {
		return err
	}
	return w.back(ctx, s)
}
