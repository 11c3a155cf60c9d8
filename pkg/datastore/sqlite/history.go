package sqlite

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/server"
)

// history is kine's log, telling the truth about the newest revision. Kine
// keeps that number with a compare-and-swap that loses when two writers
// finish at once, and reads it after the rows when a listing is empty: then a
// key that was created in between is neither listed nor watched.
type history struct {
	*sqllog.SQLLog

	rows   server.Dialect
	newest atomic.Int64 // highest revision known to be committed
}

var _ logstructured.Log = (*history)(nil)

// saw notes that a revision has been committed.
func (h *history) saw(revision int64) {
	for {
		old := h.newest.Load()
		if revision <= old || h.newest.CompareAndSwap(old, revision) {
			return
		}
	}
}

// Append implements logstructured.Log.
func (h *history) Append(ctx context.Context, event *server.Event) (int64, error) {
	revision, err := h.SQLLog.Append(ctx, event)
	if err == nil {
		h.saw(revision)
	}
	return revision, err
}

// CurrentRevision implements logstructured.Log.
func (h *history) CurrentRevision(ctx context.Context) (int64, error) {
	revision, err := h.SQLLog.CurrentRevision(ctx)
	if err != nil {
		return revision, err
	}
	h.saw(revision)
	return h.newest.Load(), nil
}

// List implements logstructured.Log: the revision of an empty answer is one
// that was there before the rows were read.
func (h *history) List(ctx context.Context, key, end string, limit, revision int64, includeDeletes, keysOnly bool) (int64, server.Events, error) {
	before, err := h.CurrentRevision(ctx)
	if err != nil {
		return 0, nil, err
	}
	got, events, err := h.SQLLog.List(ctx, key, end, limit, revision, includeDeletes, keysOnly)
	if err == nil && len(events) == 0 {
		got = before
	}
	return got, events, err
}

// After implements logstructured.Log: an error while rows are read is one.
// Kine takes the rows before it for all there are, and a watch would go on
// behind the others.
func (h *history) After(ctx context.Context, key, end string, revision, limit int64) (int64, server.Events, error) {
	rows, err := h.rows.After(ctx, key, end, revision, limit)
	if err != nil {
		return 0, nil, err
	}
	current, compacted, events, err := sqllog.RowsToEvents(rows, true, true)
	if err = errors.Join(err, rows.Err()); err != nil {
		return 0, nil, err
	}
	if len(events) == 0 { // No row has said which revisions there are.
		current, err = h.CurrentRevision(ctx)
		if err == nil {
			compacted, err = h.CompactRevision(ctx)
		}
		if err != nil {
			return 0, nil, err
		}
	}
	if revision > 0 && revision < compacted {
		return current, nil, server.ErrCompacted
	}
	return current, events, nil
}
