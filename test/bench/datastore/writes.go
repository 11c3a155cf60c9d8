package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	valueSize = 400 // a lease, or a small object
	writers   = 32
	warmUp    = 2 * time.Second

	leaseKeys   = 20
	leaseFew    = 2000
	leaseMany   = 10000
	leasePaced  = 100
	leasePause  = 100 * time.Millisecond
	watchPause  = 5 * time.Millisecond // 200 a second
	watchEvents = 1000
)

func writeRows() []string {
	return []string{
		"update c=32", "update c=32 p50", "update c=32 p99", "update c=32, CPU of the store", "update c=32, disk flushes",
		"update c=32 on one connection", "update c=32 on one connection p99",
		"update c=1 p50", "update c=1 p99",
		"lease update, file bytes", "lease update, page bytes", "lease update, disk bytes",
		"lease update, file bytes with checkpoints", "lease update, page bytes with checkpoints", "lease update, disk bytes with checkpoints",
		"lease update at 10/s, file bytes", "lease update at 10/s, page bytes", "lease update at 10/s, disk bytes",
		"watch latency at 200/s p50", "watch latency at 200/s p99",
		"create c=32", "create c=32 p99", "WAL size, largest",
	}
}

// measureWrites measures updates and creations of small objects on a database
// that has 3,000 of them.
func measureWrites(ctx context.Context, b *bench) error {
	if err := b.fill(ctx, "/registry/secrets/default/", 3000, valueSize); err != nil {
		return err
	}
	steps := []struct {
		row string
		run func(context.Context, string) error
	}{
		{"update c=32", func(ctx context.Context, row string) error { return b.updates(ctx, row, writers) }},
		{"update c=32 on one connection", func(ctx context.Context, row string) error { return b.updates(ctx, row, 1) }},
		{"update c=1", b.updateAlone},
		{"lease update", b.leases},
		{"watch latency at 200/s", b.watchLatency},
		{"create c=32", b.creates},
	}
	for _, s := range steps {
		if !slices.ContainsFunc(writeRows(), func(r string) bool { return b.wants(r) && len(r) >= len(s.row) && r[:len(s.row)] == s.row }) {
			continue
		}
		if err := b.profiled(s.row, func() error { return s.run(ctx, s.row) }); err != nil {
			return fmt.Errorf("%s: %w", s.row, err)
		}
	}
	return nil
}

// updates lets 32 writers update a key each, as fast as answers come.
func (b *bench) updates(ctx context.Context, row string, connections int) error {
	var clients []client
	for range connections {
		c, err := b.dial()
		if err != nil {
			return err
		}
		clients = append(clients, c)
	}
	keys := make([]*object, writers)
	for w := range keys {
		keys[w] = newObject(fmt.Sprintf("/registry/pods/default/c%d-w%02d", connections, w))
	}
	cpu, before := b.cpu(), b.written()
	took, rate, err := load(ctx, writers, warmUp, b.window, func(ctx context.Context, w, _ int) error {
		return keys[w].update(ctx, clients[w%connections])
	})
	if err != nil {
		return err
	}
	// Both were used in the warm-up as well.
	updates := rate * (b.window + warmUp).Seconds()
	b.add(row, rate)
	b.add(row+" p50", quantile(took, 0.5))
	b.add(row+" p99", quantile(took, 0.99))
	b.add(row+", CPU of the store", (b.cpu()-cpu)/updates*1e6)
	b.add(row+", disk flushes", b.written().minus(before).flushes/updates)
	return nil
}

func (b *bench) updateAlone(ctx context.Context, row string) error {
	c, err := b.dial()
	if err != nil {
		return err
	}
	key := newObject("/registry/pods/default/alone")
	took, _, err := load(ctx, 1, warmUp/4, b.window/2, func(ctx context.Context, _, _ int) error { return key.update(ctx, c) })
	b.add(row+" p50", quantile(took, 0.5))
	b.add(row+" p99", quantile(took, 0.99))
	return err
}

// leases measures what one writer's renewals of twenty leases write: a few,
// then enough of them for checkpoints to be in the steady state, then at the
// pace of a cluster of a hundred nodes.
func (b *bench) leases(ctx context.Context, row string) error {
	c, err := b.dial()
	if err != nil {
		return err
	}
	var keys []*object
	for i := range leaseKeys {
		keys = append(keys, newObject(fmt.Sprintf("/registry/leases/kube-node-lease/node-%02d", i)))
		if err := keys[i].update(ctx, c); err != nil {
			return err
		}
	}
	for _, v := range []struct {
		suffix string
		count  int
		pause  time.Duration
	}{
		{"", leaseFew, 0},
		{" with checkpoints", leaseMany, 0},
		{" at 10/s", leasePaced, leasePause},
	} {
		name := func(what string) string { return row + ", " + what + " bytes" + v.suffix }
		if v.pause > 0 {
			name = func(what string) string { return row + v.suffix + ", " + what + " bytes" }
		}
		if !b.wants(name("file")) && !b.wants(name("page")) && !b.wants(name("disk")) {
			continue
		}
		tick := time.NewTicker(max(v.pause, 1))
		before := b.written()
		for i := range v.count {
			if v.pause > 0 {
				<-tick.C
			}
			if err := keys[i%leaseKeys].update(ctx, c); err != nil {
				return err
			}
		}
		tick.Stop()
		time.Sleep(200 * time.Millisecond) // what a store writes a moment later is of these updates, too
		d, n := b.written().minus(before), float64(v.count)
		b.add(name("file"), d.file/n)
		b.add(name("page"), d.page/n)
		b.add(name("disk"), d.disk/n)
	}
	return nil
}

// watchLatency is the time from sending a write to seeing its event.
func (b *bench) watchLatency(ctx context.Context, row string) error {
	writer, err := b.dial()
	if err != nil {
		return err
	}
	watcher, err := b.dial()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := watcher.Watch(clientv3.WithRequireLeader(ctx), "/registry/watched/", clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithPrevKV())
	<-events
	var took []float64
	var watchErr error
	var wg sync.WaitGroup
	begin := time.Now()
	wg.Go(func() {
		for r := range events {
			if watchErr = r.Err(); watchErr != nil {
				return
			}
			now := time.Since(begin)
			for _, e := range r.Events {
				took = append(took, ms(now-time.Duration(binary.BigEndian.Uint64(e.Kv.Value))))
			}
			if len(took) == watchEvents {
				return
			}
		}
		watchErr = errors.New("the watch has ended")
	})
	key := newObject("/registry/watched/one")
	tick := time.NewTicker(watchPause)
	defer tick.Stop()
	for range watchEvents {
		<-tick.C
		binary.BigEndian.PutUint64(key.value, uint64(time.Since(begin)))
		if err = key.update(ctx, writer); err != nil {
			cancel() // ends the watch
			break
		}
	}
	wg.Wait()
	b.add(row+" p50", quantile(took, 0.5))
	b.add(row+" p99", quantile(took, 0.99))
	return errors.Join(err, watchErr)
}

func (b *bench) creates(ctx context.Context, row string) error {
	var clients []client
	for range writers {
		c, err := b.dial()
		if err != nil {
			return err
		}
		clients = append(clients, c)
	}
	value := bytes.Repeat([]byte("x"), valueSize)
	took, rate, err := load(ctx, writers, warmUp/2, b.window, func(ctx context.Context, w, n int) error {
		_, err := clients[w].put(ctx, fmt.Sprintf("/registry/pods/created/w%02d-%07d", w, n), value, 0)
		return err
	})
	b.add(row, rate)
	b.add(row+" p99", quantile(took, 0.99))
	return err
}

// object is a key that one writer updates, each time with another value.
type object struct {
	key      string
	value    []byte
	revision int64
}

func newObject(key string) *object {
	return &object{key: key, value: bytes.Repeat([]byte("x"), valueSize)}
}

func (o *object) update(ctx context.Context, c client) error {
	binary.BigEndian.PutUint64(o.value[8:], uint64(o.revision))
	revision, err := c.put(ctx, o.key, o.value, o.revision)
	if err == nil {
		o.revision = revision
	}
	return err
}
