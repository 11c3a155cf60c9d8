package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"skiff/internal/pause"
	"skiff/pkg/datastore"
	"skiff/pkg/payload"
	"skiff/pkg/preflight"
	"skiff/pkg/process"
	"skiff/pkg/snapshot"
)

// trial is what the version before tells the one that is to take its place. Both
// may be of any version: fields are only ever added.
type trial struct {
	// Argv is the command line of the service; its environment is that of the
	// process.
	Argv []string `json:"argv"`
	// Scratch is a directory with a copy of the server's database, "" where there
	// is none; whatever happens to it, nobody misses it.
	Scratch string `json:"scratch,omitempty"`
}

const (
	// trialDatabase is the copy's name in the directory.
	trialDatabase = "state.db"
	// tryLimit is how long a new version has to look at everything.
	tryLimit = 5 * time.Minute
)

// try has the new executable look at everything. It is another process with a
// few megabytes: a whole second control plane would not fit into the machines
// that skiff is for.
func (i *incumbent) try(ctx context.Context, executable, archive string) (err error) {
	t := trial{Argv: i.argv}
	if archive != "" {
		t.Scratch = string(upgradeDir().Scratch())
		if err := errors.Join(os.RemoveAll(t.Scratch), os.MkdirAll(t.Scratch, 0o700)); err != nil {
			return fmt.Errorf("make room for a copy of the data: %w", err)
		}
		if err := snapshot.ExtractDatabase(ctx, archive, filepath.Join(t.Scratch, trialDatabase)); err != nil {
			return err
		}
	}
	text, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("describe the service: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, tryLimit, fmt.Errorf("it was not done after %s", tryLimit))
	defer cancel()
	_, err = process.Output(ctx, process.Command{Path: executable, Args: []string{"upgrade", "try"}, Env: i.environ, Stdin: bytes.NewReader(text)})
	return err
}

// upgradeTry is the other end: it reads the configuration with this version's
// options, checks the machine, and opens the copy of the data.
func upgradeTry(c *cli.Context) error {
	var t trial
	if err := json.NewDecoder(io.LimitReader(os.Stdin, 1<<20)).Decode(&t); err != nil {
		return fmt.Errorf("read what to try: %w", err)
	}
	_, cfg, err := configOf(c.Context, t.Argv, os.Environ())
	if err != nil {
		return fmt.Errorf("the configuration does not suit this version: %w", err)
	}
	if _, err := preflight.Host(hostOptions(cfg)); err != nil {
		return err
	}
	files, err := payload.Open()
	if err != nil {
		return err
	}
	defer files.Close()
	if len(files.Names()) == 0 {
		return errors.New("this executable lacks the programs that it needs; it was built by `go build` and not by `make`")
	}
	if t.Scratch == "" {
		return nil
	}
	return tryDatabase(c.Context, t.Scratch)
}

// tryDatabase serves the copy until it can be read.
func tryDatabase(ctx context.Context, dir string) error {
	store, err := datastore.Open(datastore.Options{
		Name: "copy", Dir: dir, Endpoint: "sqlite://" + filepath.Join(dir, trialDatabase), Socket: filepath.Join(dir, "socket"),
		Durability: "relaxed", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	for {
		select {
		case err := <-done:
			return fmt.Errorf("open a copy of the datastore: %w", err)
		default:
		}
		if store.Ready(ctx) == nil {
			break
		}
		if !pause.For(ctx, 50*time.Millisecond) {
			break
		}
	}
	cancel()
	if err := <-done; err != nil {
		return fmt.Errorf("close the copy of the datastore: %w", err)
	}
	return nil
}
