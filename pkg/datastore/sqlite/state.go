package sqlite

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"skiff/internal/atomicfile"
)

// bootIDFile names the running boot of the kernel: when it changes, what was
// not synced may be lost.
const bootIDFile = "/proc/sys/kernel/random/boot_id"

// state is what is known of a database besides its rows, in a file beside it.
type state struct {
	Boot    string `json:"boot"`    // the boot in which it was last opened
	Open    bool   `json:"open"`    // it has not been closed since, or has to be checked
	Settled bool   `json:"settled"` // the cluster's first start has been completed
}

func (f file) statePath() string { return f.path + ".state" }

// readState returns nil if nothing is known: the database is new, or was
// written by K3s.
func (f file) readState() (*state, error) {
	data, err := os.ReadFile(f.statePath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state of the database: %w", err)
	}
	var st state
	if err := json.Unmarshal(data, &st); err != nil {
		// Only a file system that loses what was synced leaves half a file;
		// assume the worst then.
		return &state{Open: true, Settled: true}, nil
	}
	return &st, nil
}

func (f file) writeState(st state) error {
	data, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("encode state of the database: %w", err)
	}
	if err := atomicfile.Write(f.statePath(), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write state of the database: %w", err)
	}
	return nil
}

// bootID is empty where the kernel does not say.
func bootID() string {
	id, err := os.ReadFile(bootIDFile)
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(id))
}
