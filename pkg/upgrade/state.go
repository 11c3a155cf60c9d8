package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"skiff/internal/atomicfile"
	"skiff/internal/lockfile"
	"skiff/internal/pause"
)

// Phase is how far an upgrade has come.
type Phase string

// The phases, in order; the last three are ends.
const (
	// Prepared: all is in place but the executable.
	Prepared Phase = "prepared"
	// Watched: the new executable is in place, and has to prove itself.
	Watched Phase = "watched"
	// GoingBack: the old executable is being put back.
	GoingBack Phase = "going back"

	Done       Phase = "done"
	RolledBack Phase = "rolled back"
	// Dropped: it ended before the executable was changed.
	Dropped Phase = "dropped"
)

// Ended reports whether nothing is left to do.
func (p Phase) Ended() bool { return p == "" || p == Done || p == RolledBack || p == Dropped }

// State is the journal of the last upgrade. It is on the disk before what it
// says is done.
type State struct {
	Phase  Phase     `json:"phase"`
	From   Release   `json:"from"`
	To     Release   `json:"to"`
	Target string    `json:"target"` // the executable of the service
	Old    identity  `json:"old"`    // of what was there
	New    identity  `json:"new"`    // of what was put there
	Begun  time.Time `json:"begun"`
	Ended  time.Time `json:"ended,omitzero"`
	// Starts counts the starts of the new version.
	Starts int `json:"starts,omitempty"`
	// Reason is why it went back.
	Reason string `json:"reason,omitempty"`
	// Trouble is what did not work on the way back.
	Trouble string `json:"trouble,omitempty"`

	Service Service       `json:"service"`
	Limit   time.Duration `json:"limit"`
	Settle  time.Duration `json:"settle"`
	// Undemanding is for a skiff that was not ready before: it is enough that the
	// new one runs.
	Undemanding bool `json:"undemanding,omitempty"`

	// Snapshot is the archive of before, "" where there is none.
	Snapshot string `json:"snapshot,omitempty"`
	// RestoreData says that the way back leads over the snapshot.
	RestoreData bool `json:"restoreData,omitempty"`
	// Data is where a snapshot is restored to.
	Data Data `json:"data"`
}

// Data says where a server keeps what a snapshot has.
type Data struct {
	Dir        string `json:"dir"` // of all data
	Database   string `json:"database,omitempty"`
	ConfigFile string `json:"configFile,omitempty"`
	Registries string `json:"registries,omitempty"`
	Snapshots  string `json:"snapshots,omitempty"`
}

// Read returns the journal; the zero State if there has been no upgrade.
func (d Dir) Read() (State, error) {
	var s State
	text, err := os.ReadFile(d.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read the journal of the upgrade: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read the journal of the upgrade %s: %w", d.stateFile(), err)
	}
	return s, nil
}

func (d Dir) write(s State) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write the journal of the upgrade: %w", err)
	}
	return atomicfile.Write(d.stateFile(), append(text, '\n'), 0o600)
}

// errUnchanged makes update leave the journal alone.
var errUnchanged = errors.New("nothing to change")

// update changes the journal; nobody else does meanwhile. The result is how it
// is now.
func (d Dir) update(ctx context.Context, change func(*State) error) (s State, err error) {
	lock, err := waitLock(ctx, d.stateLock())
	if err != nil {
		return s, fmt.Errorf("take the journal of the upgrade: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	if s, err = d.Read(); err != nil {
		return s, err
	}
	changed := s
	switch err := change(&changed); {
	case errors.Is(err, errUnchanged):
		return s, nil
	case err != nil:
		return s, err
	}
	return changed, d.write(changed)
}

// waitLock takes a lock that nobody holds for long.
func waitLock(ctx context.Context, path string) (*lockfile.Lock, error) {
	for {
		lock, err := lockfile.Acquire(path)
		if _, held := errors.AsType[*lockfile.HeldError](err); !held {
			return lock, err
		}
		if !pause.For(ctx, 100*time.Millisecond) {
			return nil, errors.Join(err, context.Cause(ctx))
		}
	}
}

// takeLock takes a lock, or returns a *lockfile.HeldError if a process has it
// that is at work, and not only looking.
func takeLock(ctx context.Context, path string) (*lockfile.Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return waitLock(ctx, path)
}

// held reports whether some process has a lock. It takes it for a moment to find
// out.
func held(path string) bool {
	lock, err := lockfile.Acquire(path)
	if err != nil {
		_, held := errors.AsType[*lockfile.HeldError](err)
		return held
	}
	return lock.Release() != nil
}

// Watching reports whether a process looks after the new version.
func (d Dir) Watching() bool { return held(d.watchLock()) }

// Installing reports whether an upgrade is at work.
func (d Dir) Installing() bool { return held(d.installLock()) }

// Text says for a person how the last upgrade went.
func (s State) Text() string {
	way := fmt.Sprintf("from %s to %s", s.From.Version, s.To.Version)
	switch s.Phase {
	case Prepared:
		return "The upgrade " + way + " is being prepared."
	case Watched:
		return fmt.Sprintf("The upgrade %s is in place and watched: it goes back by itself unless all is ready within %s.", way, s.Limit)
	case GoingBack:
		return "The upgrade " + way + " is being rolled back: " + s.Reason + "."
	case Done:
		return fmt.Sprintf("The upgrade %s was completed %s.", way, s.Ended.Format(time.RFC3339))
	case RolledBack:
		text := fmt.Sprintf("The upgrade %s was rolled back %s: %s.", way, s.Ended.Format(time.RFC3339), strings.TrimSuffix(s.Reason, "."))
		if s.Trouble != "" {
			text += " Not everything went back: " + s.Trouble + "."
		}
		return text
	case Dropped:
		return "The upgrade " + way + " was interrupted before anything was changed."
	}
	return "There has been no upgrade."
}

// Note is what `skiff status` shows: what is going on, and what went wrong. It
// is empty when all is well.
func (s State) Note() string {
	if s.Phase == Watched || s.Phase == GoingBack || s.Phase == RolledBack {
		return s.Text()
	}
	return ""
}
