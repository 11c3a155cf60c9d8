package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/storage/etcd3"
)

const (
	compactedObjects = 20000
	compactionTail   = 2 * time.Second // etcd compacts on after its answer
)

func compactionRows() []string {
	return []string{
		"write during compaction, longest", "write before compaction, longest", "compaction call", "WAL size, largest",
		"database size after compaction",
	}
}

// measureCompaction updates each of 20,000 objects once and has the old
// revisions compacted by the API server's own function, while a writer goes
// on. How long the same writer waits without a compaction is measured before.
func measureCompaction(ctx context.Context, b *bench) error {
	const prefix = "/registry/pods/default/"
	if err := b.fill(ctx, prefix, compactedObjects, valueSize); err != nil {
		return err
	}
	if err := b.updateAll(ctx, prefix, compactedObjects); err != nil {
		return err
	}
	c, err := b.dial()
	if err != nil {
		return err
	}
	// As at the API server's start: the first call only notes the revision.
	version, _, _, err := etcd3.Compact(ctx, c.Client.Client, 0, 0)
	if err != nil {
		return fmt.Errorf("prepare compaction: %w", err)
	}
	key := newObject("/registry/pods/writer/one")
	update := func(ctx context.Context, _, _ int) error { return key.update(ctx, c) }
	before, _, err := load(ctx, 1, time.Second, compactionTail, update)
	if err != nil {
		return err
	}
	revision := key.revision
	var during []float64
	var writing sync.WaitGroup
	var writeErr error
	compacted := make(chan struct{})
	writing.Go(func() {
		var end time.Time
		for {
			begin := time.Now()
			if writeErr = key.update(ctx, c); writeErr != nil {
				return
			}
			during = append(during, ms(time.Since(begin)))
			select {
			case <-compacted:
				if end.IsZero() {
					end = begin.Add(compactionTail)
				} else if begin.After(end) {
					return
				}
			default:
			}
		}
	})
	compactor, err := b.dial()
	if err != nil {
		return err
	}
	var call float64
	err = b.profiled("compaction", func() error {
		begin := time.Now()
		_, _, done, err := etcd3.Compact(ctx, compactor.Client.Client, version, revision)
		call = ms(time.Since(begin))
		if err == nil && done != revision {
			err = fmt.Errorf("compacted up to %d, want %d", done, revision)
		}
		close(compacted)
		writing.Wait()
		return err
	})
	if err == nil {
		err = writeErr
	}
	if err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	b.add("write before compaction, longest", slices.Max(before))
	b.add("write during compaction, longest", slices.Max(during))
	b.add("compaction call", call)
	size, err := b.databaseSize()
	b.add("database size after compaction", size)
	return err
}

// updateAll updates each of the keys that fill has made once.
func (b *bench) updateAll(ctx context.Context, prefix string, count int) error {
	const workers = 8
	var clients []client
	for range workers {
		c, err := b.dial()
		if err != nil {
			return err
		}
		clients = append(clients, c)
	}
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for w, c := range clients {
		wg.Go(func() {
			for i := w; i < count; i += workers {
				o := newObject(fmt.Sprintf("%s%06d", prefix, i))
				var err error
				if o.revision, err = c.get(ctx, o.key); err == nil {
					err = o.update(ctx, c)
				}
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs // nil when there is none
}
