// Package upgrade puts another skiff in the place of the one that is installed,
// and the old one back when the new one is not well: also after a power cut at
// any moment, and also when the new one does not even start. It knows files,
// processes and what `skiff status` says; snapshots, configuration and the API
// are handed to it as functions. Start reading at DESIGN.md, then
// Installer.Install, Guard and Watcher.
package upgrade

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// Limits of an upgrade that nobody has set otherwise.
const (
	// DefaultLimit is how long a new version has until all is ready.
	DefaultLimit = 10 * time.Minute
	// DefaultSettle is how long it then has to stay so.
	DefaultSettle = 15 * time.Second
	// maxStarts is how many starts a new version has. One that is well needs one.
	maxStarts = 3
)

// ErrSame says that the version is installed already.
var ErrSame = errors.New("this version is installed already")

// Dir is the directory of all that an upgrade keeps.
type Dir string

// State is the journal.
func (d Dir) stateFile() string { return filepath.Join(string(d), "state.json") }

// Previous is the executable of before.
func (d Dir) Previous() string { return filepath.Join(string(d), "previous") }

// Guard is what the service runs before each start, while it exists.
func (d Dir) Guard() string { return filepath.Join(string(d), "guard") }

// Log is what the watcher writes to.
func (d Dir) Log() string { return filepath.Join(string(d), "log") }

// Scratch is where the new version tries a copy of the data.
func (d Dir) Scratch() string { return filepath.Join(string(d), "try") }

func (d Dir) configFile() string { return filepath.Join(string(d), "config.json") }

// Locks: of the whole upgrade, of one change of the journal, of the watch, and
// of the way back.
func (d Dir) installLock() string { return filepath.Join(string(d), "install.lock") }
func (d Dir) stateLock() string   { return filepath.Join(string(d), "state.lock") }
func (d Dir) watchLock() string   { return filepath.Join(string(d), "watch.lock") }
func (d Dir) backLock() string    { return filepath.Join(string(d), "back.lock") }

// staged and returning are names beside the executable of the service, so that
// a rename puts them in its place.
func staged(target string) string    { return beside(target, "new") }
func returning(target string) string { return beside(target, "back") }

func beside(target, what string) string {
	return filepath.Join(filepath.Dir(target), fmt.Sprintf(".%s.upgrade-%s", filepath.Base(target), what))
}
