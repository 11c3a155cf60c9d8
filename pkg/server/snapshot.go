package server

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"skiff/pkg/component"
	"skiff/pkg/config"
	"skiff/pkg/datastore"
	"skiff/pkg/snapshot"
	"skiff/pkg/status"
	"skiff/pkg/version"
)

// SnapshotSource is what snapshots of this server are made of. For a datastore
// that is not SQLite ok is false.
func SnapshotSource(cfg config.Completed) (src snapshot.Source, ok bool) {
	database, ok := datastore.File(cfg.Server.DatastoreEndpoint, cfg.Paths.ServerDB())
	return snapshot.Source{
		Paths:      cfg.Paths,
		Database:   database,
		ConfigFile: cfg.File,
		Registries: cfg.Node.PrivateRegistry,
		Node:       cfg.Node.Name,
		Version:    version.Version,
	}, ok
}

// Prepare is called before New by whoever holds the lock of the data directory:
// it completes an interrupted restore, and makes a snapshot if the data was
// last used by another version.
func Prepare(ctx context.Context, cfg config.Completed, notes status.Notes, logger *slog.Logger) error {
	if err := snapshot.Finish(cfg.Paths); err != nil {
		return err
	}
	src, ok := SnapshotSource(cfg)
	if !ok {
		return nil
	}
	return snapshot.BeforeUpgrade(ctx, src, cfg.Server.SnapshotDir, notes, logger)
}

// OnRequest is what the server does for the person at the machine while it
// runs, for status.Server.
func OnRequest(cfg config.Completed) map[string]http.Handler {
	src, ok := SnapshotSource(cfg)
	if !ok {
		return nil
	}
	return map[string]http.Handler{snapshot.Path: snapshot.Handler(src)}
}

// addSnapshots adds what makes snapshots while the server runs.
func (s *Server) addSnapshots(g *component.Group, after component.Ref, logger *slog.Logger) {
	src, ok := SnapshotSource(s.cfg)
	if !ok || s.cfg.Server.SnapshotInterval <= 0 {
		return
	}
	g.Add(&snapshot.Scheduler{
		Source:   src,
		Dir:      s.cfg.Server.SnapshotDir,
		Interval: s.cfg.Server.SnapshotInterval,
		Keep:     s.cfg.Server.SnapshotKeep,
		Notes:    s.o.Notes,
		Logger:   logger,
	}, component.After(after))
}

// newestSnapshot is datastore.Options.Snapshot.
func (s *Server) newestSnapshot(ctx context.Context, to string) (name string, jump int64, err error) {
	info, err := snapshot.NewestDatabase(ctx, s.cfg.Server.SnapshotDir, to)
	return info.Name, info.Jump(time.Now()), err
}
