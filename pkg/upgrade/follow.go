package upgrade

import (
	"context"
	"fmt"
	"time"

	"skiff/internal/pause"
)

// takeOver is how long the service has to start the one who watches.
const takeOver = 30 * time.Second

// Follow tells a person how the upgrade goes on until it is over. If the service
// has no guard, so that nobody else watches, the caller is the watcher.
func Follow(ctx context.Context, w *Watcher, say func(format string, args ...any)) (State, error) {
	begin, last := time.Now(), ""
	for {
		s, err := w.Dir.Read()
		if err != nil || s.Phase.Ended() {
			return s, err
		}
		h := askHealth(ctx, s.Service.Socket, s.New)
		if line := describe(s, h); line != last {
			say("%s", line)
			last = line
		}
		if time.Since(begin) > takeOver && !w.Dir.Watching() {
			// It may have come to its end a moment ago.
			if s, err := w.Dir.Read(); err != nil || s.Phase.Ended() {
				return s, err
			}
			say("The service does not run the guard of upgrades before it starts: this command watches, leave it running. Install the service again to change that.")
			if err := w.Run(ctx); err != nil {
				return s, err
			}
			continue
		}
		if !pause.For(ctx, askEvery) {
			return s, fmt.Errorf("follow the upgrade: %w", context.Cause(ctx))
		}
	}
}

func describe(s State, h Health) string {
	switch {
	case s.Phase == GoingBack:
		return "It goes back: " + s.Reason + "."
	case h.PID == 0 && s.Service.Manager == Other:
		return "skiff has ended; whoever has started it has to start it again."
	case h.PID == 0:
		return "skiff is starting."
	case !h.New:
		return "Still running is " + h.Version + "."
	case h.Ready:
		return fmt.Sprintf("skiff %s is ready; it has to stay so for %s.", h.Version, s.Settle)
	}
	return fmt.Sprintf("skiff %s runs (start %d).", h.Version, max(1, s.Starts))
}
