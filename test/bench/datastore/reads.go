package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
)

const (
	objects     = 10000
	objectSize  = 1500
	objectsAt   = "/registry/pods/default/"
	pageSize    = 500
	quietTime   = 10 * time.Second
	quietRounds = 20
	// quietPause is longer than the 100 ms for which the API server does not
	// ask for progress again.
	quietPause = 150 * time.Millisecond
)

func readRows() []string {
	return []string{
		"memory when empty", "memory", "memory, anonymous", "memory after lists", "memory after lists, anonymous",
		"memory at rest", "memory at rest, anonymous", "database size",
		"Range limit=1 p50", "get p50", "list 10,000 p50", "list 10,000, CPU of the store", "list 10,000 in pages of 500 p50",
		"LIST through the cacher p50", "LIST through the cacher p90", "LIST through the cacher without writes p50", "caches that lost an object", "progress request p50",
		"start", "start, file bytes", "start, disk bytes", "stop", "WAL size, largest",
	}
}

// measureReads measures reads of 10,000 objects of 1.5 KB, memory and a
// restart.
func measureReads(ctx context.Context, b *bench) error {
	empty, _ := b.memory()
	b.add("memory when empty", empty)
	if err := b.fill(ctx, objectsAt, objects, objectSize); err != nil {
		return err
	}
	b.resident("memory")
	c, err := b.dial()
	if err != nil {
		return err
	}
	for _, step := range []func(context.Context, client) error{b.ranges, b.lists, b.consistentLists, b.progress} {
		if err := step(ctx, c); err != nil {
			return err
		}
	}
	b.resident("memory after lists")
	if strings.HasPrefix(b.system.name, "ours") {
		if err := b.ask("rest"); err != nil {
			return err
		}
	}
	b.resident("memory at rest")
	return b.restart(ctx)
}

// resident notes the store's memory after a while without requests.
func (b *bench) resident(row string) {
	if !b.wants(row) && !b.wants(row+", anonymous") {
		return
	}
	time.Sleep(quietTime)
	rss, anon := b.memory()
	b.add(row, rss)
	b.add(row+", anonymous", anon)
}

// repeat measures step n times and notes the median.
func (b *bench) repeat(row string, n int, step func(i int) error) error {
	if !b.wants(row + " p50") {
		return nil
	}
	return b.profiled(row, func() error {
		took, err := timed(n, step)
		if err != nil {
			return fmt.Errorf("%s: %w", row, err)
		}
		b.add(row+" p50", quantile(took, 0.5))
		return nil
	})
}

func (b *bench) ranges(ctx context.Context, c client) error {
	err := b.repeat("Range limit=1", 200, func(int) error {
		r, err := c.Kubernetes.List(ctx, objectsAt, kubernetes.ListOptions{Limit: 1})
		if err == nil && (len(r.Kvs) != 1 || r.Count != objects) {
			err = fmt.Errorf("%d keys of %d, want 1 of %d", len(r.Kvs), r.Count, objects)
		}
		return err
	})
	if err != nil {
		return err
	}
	return b.repeat("get", 1000, func(i int) error {
		revision, err := c.get(ctx, fmt.Sprintf("%s%06d", objectsAt, i*7%objects))
		if err == nil && revision == 0 {
			err = errors.New("the key is not there")
		}
		return err
	})
}

func (b *bench) lists(ctx context.Context, c client) error {
	const row, times = "list 10,000", 20
	cpu := b.cpu()
	if err := b.repeat(row, times, func(int) error { return listed(ctx, c, 0) }); err != nil {
		return err
	}
	b.add(row+", CPU of the store", (b.cpu()-cpu)/times*1e3)
	return b.repeat("list 10,000 in pages of 500", times/2, func(int) error { return listed(ctx, c, pageSize) })
}

// listed reads all objects, page by page as the API server does, and counts
// them.
func listed(ctx context.Context, c client, limit int64) error {
	count := 0
	o := kubernetes.ListOptions{Limit: limit}
	for {
		r, err := c.Kubernetes.List(ctx, objectsAt, o)
		if err != nil {
			return err
		}
		count += len(r.Kvs)
		if limit == 0 || len(r.Kvs) < int(limit) {
			break
		}
		o.Continue = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
		o.Revision = r.Revision
	}
	if count != objects {
		return fmt.Errorf("%d objects, want %d", count, objects)
	}
	return nil
}

// progress measures how long a watch takes to say that it has seen a write
// that is none of its own: what a consistent read from a cache waits for.
func (b *bench) progress(ctx context.Context, c client) error {
	const row = "progress request p50"
	if !b.wants(row) {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := c.Watch(ctx, "/registry/quiet/", clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithProgressNotify())
	<-w
	other := newObject("/registry/other/progress")
	var took []float64
	for i := range quietRounds {
		if err := other.update(ctx, c); err != nil {
			return err
		}
		begin := time.Now()
		for seen := int64(0); seen < other.revision; {
			if err := c.RequestProgress(ctx); err != nil {
				return fmt.Errorf("request progress: %w", err)
			}
			r, ok := <-w
			if !ok || r.Err() != nil {
				return fmt.Errorf("watch for progress: %w", r.Err())
			}
			seen = r.Header.Revision
		}
		took = append(took, ms(time.Since(begin)))
		time.Sleep(quietPause + time.Duration(i*7)*time.Millisecond)
	}
	b.add(row, quantile(took, 0.5))
	return nil
}

// restart stops the store in good order and starts it on what is there.
func (b *bench) restart(ctx context.Context) error {
	if !matchesAny(b.rows, []string{"start", "start, file bytes", "start, disk bytes", "stop", "database size"}) {
		return nil
	}
	b.add("WAL size, largest", float64(b.walMax())/(1<<20))
	begin := time.Now()
	if err := b.stop(); err != nil {
		return err
	}
	b.add("stop", ms(time.Since(begin)))
	size, err := b.databaseSize()
	if err != nil {
		return err
	}
	b.add("database size", size)
	var before written
	before.disk = b.written().disk
	s, err := b.again(ctx)
	if err != nil {
		return err
	}
	b.server = s
	b.add("start", ms(s.ready))
	time.Sleep(2 * time.Second) // what is written behind the first answer belongs to the start
	d := b.written().minus(before)
	b.add("start, file bytes", d.file/1e6)
	b.add("start, disk bytes", d.disk/1e6)
	c, err := b.dial()
	if err != nil {
		return err
	}
	return listed(ctx, c, 0)
}
