package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"skiff/pkg/component"
	"skiff/pkg/config"
	"skiff/pkg/hostchange"
	"skiff/pkg/log"
	"skiff/pkg/notify"
	"skiff/pkg/status"
	"skiff/pkg/upgrade"
	"skiff/pkg/version"
)

// stopLimit is how long an orderly stop may take in all.
const stopLimit = 10 * time.Second

// recentLog is how much of the log is kept in memory, in bytes: of a start all,
// of a quiet machine days.
const recentLog = 128 << 10

// command is in what the commands differ that run skiff until it is stopped.
type command struct {
	// requests are what the status socket answers besides.
	requests map[string]http.Handler
	// before comes first, once the machine is known to be fit and this skiff to
	// be the only one. It may take its time.
	before func(ctx context.Context, p parts) error
	// compose adds the components to the group. What it returns is called after
	// these have stopped.
	compose func(g *component.Group, p parts) (closeAll func() error, err error)
	// hint is what a person at the terminal may want to know when all is ready.
	hint string
}

// parts is what a composition needs besides its configuration.
type parts struct {
	logger *slog.Logger
	notes  *status.NoteBook
	// fail stops the whole process with an error, for code of others that
	// wants to exit.
	fail func(error)
	// status is not running yet.
	status *status.Server
	// changes is where is written down what is changed on this machine.
	changes *hostchange.Recorder
}

// serve runs skiff until a signal or a failure ends it. The first SIGTERM or
// SIGINT stops it in order; a second one takes the process down as if nobody
// had asked for the first.
func serve(ctx context.Context, cfg config.Completed, origins config.Origins, stderr io.Writer, c command) (err error) {
	ctx, restore := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer restore()
	context.AfterFunc(ctx, restore)

	lock, changes, warnings, err := prepare(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	gc := newCollector()
	if err := searchPayloadFirst(cfg); err != nil {
		return err
	}
	recent := &log.Recent{Size: recentLog}
	logger, logFile, err := log.New(log.Options{Debug: cfg.Log.Debug, File: cfg.Log.File, Writer: stderr, Recent: recent})
	if err != nil {
		return fmt.Errorf("open --log: %w", err)
	}
	defer func() { err = errors.Join(err, logFile.Close()) }()
	g := component.NewGroup(logger)
	bridgeLogs(logger, cfg.Log.Debug, func() bool { return ending(ctx, g) })
	logStart(logger, cfg, origins, warnings)

	notes := &status.NoteBook{}
	begin := time.Now()
	if err := c.before(ctx, parts{logger: logger, notes: notes}); err != nil || ctx.Err() != nil {
		return err
	}
	requests := map[string]http.Handler{"GET " + status.LogPath: recent}
	maps.Copy(requests, c.requests)
	socket := statusServer(cfg, g, notes, requests, logger)
	g.Add(socket)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	failures := make(chan error, 1)
	fail := func(err error) {
		if !ending(ctx, g) { // what fails while the rest stops is a consequence
			select {
			case failures <- err:
			default:
			}
		}
		cancel(err)
	}
	closeAll, err := c.compose(g, parts{logger: logger, notes: notes, fail: fail, status: socket, changes: changes})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()

	manager, err := takeNotifySocket()
	if err != nil {
		return err
	}
	announced := make(chan struct{})
	go func() {
		defer close(announced)
		select {
		case <-g.Ready():
			announce(stderr, c.hint, time.Since(begin), logger, manager)
		case <-ctx.Done():
		}
	}()
	adapted := make(chan struct{})
	go func() {
		defer close(adapted)
		gc.run(ctx, g.Ready())
	}()
	noted := make(chan struct{})
	go func() {
		defer close(noted)
		minded := logger.With("component", "upgrade")
		if self, err := os.Executable(); err == nil {
			upgrade.Tidy(upgradeDir(), self, minded)
		}
		upgrade.Announce(ctx, upgradeDir(), notes, minded)
	}()
	err = runGroup(ctx, g, manager, logger)
	cancel(nil)
	<-noted
	<-announced
	<-adapted
	select {
	case failed := <-failures:
		return errors.Join(failed, err)
	default:
		return err
	}
}

func statusServer(cfg config.Completed, source *component.Group, notes *status.NoteBook, more map[string]http.Handler, logger *slog.Logger) *status.Server {
	return &status.Server{
		Socket: cfg.Paths.StatusSocket(), Version: version.Version,
		Source: source, Notes: notes, More: more, Logger: logger.With("component", "status"),
	}
}

// bridgeLogs brings the libraries' log records into ours.
func bridgeLogs(logger *slog.Logger, debug bool, stopping func() bool) {
	verbosity := 0
	if debug {
		verbosity = 2
	}
	log.BridgeKlog(logger, verbosity, stopping)
	log.BridgeLogrus(logger)
	log.BridgeStandard(logger)
}

// logStart says once what this start is about: every setting that is not a default.
func logStart(logger *slog.Logger, cfg config.Completed, origins config.Origins, warnings []string) {
	logger.Info("starting skiff", "version", version.Version, "pid", os.Getpid())
	for _, w := range warnings {
		logger.Warn("this machine is not ideal", "reason", w)
	}
	for _, h := range cfg.DisableHints() {
		logger.Warn("a part goes by another name here", "hint", h)
	}
	for _, s := range config.Effective(cfg, origins) {
		if s.Origin.Source != config.FromDefault {
			logger.Info("setting", "name", s.Name, "value", strings.Join(s.Values, " "), "from", s.Origin.String())
		}
	}
}

// runGroup runs the group, and gives up on it when an ordered stop takes
// longer than anyone who stops a service waits.
func runGroup(ctx context.Context, g *component.Group, manager notify.Notifier, logger *slog.Logger) error {
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	if !restarting(ctx) {
		if err := manager.Stopping("stopping"); err != nil {
			logger.Warn("service manager not told of the stop", "error", err)
		}
	}
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	select {
	case err := <-done:
		return err
	case <-limit.C:
		var late []string
		for _, s := range g.Status() {
			if s.State != component.Stopped && s.State != component.Failed {
				late = append(late, s.Name)
			}
		}
		return fmt.Errorf("stop: after %s these still run and are left: %s", stopLimit, strings.Join(late, ", "))
	}
}

// ending reports whether the stop has begun.
func ending(ctx context.Context, g *component.Group) bool {
	return ctx.Err() != nil || slices.ContainsFunc(g.Status(), func(s component.Status) bool {
		return s.State == component.Stopping || s.State == component.Stopped || s.State == component.Failed
	})
}

// announce tells the service manager and the person at the terminal, once,
// that everything is ready.
func announce(w io.Writer, hint string, after time.Duration, logger *slog.Logger, manager notify.Notifier) {
	if err := manager.Ready("ready"); err != nil {
		logger.Warn("service manager not told of readiness", "error", err)
	}
	fmt.Fprintf(w, "\nskiff is ready after %s.\n%s  state       %s status\n\n", after.Round(10*time.Millisecond), hint, os.Args[0])
}
