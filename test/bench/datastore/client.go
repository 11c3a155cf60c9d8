package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// client speaks to a store as the API server does, by etcd's client for
// Kubernetes, on a connection of its own.
type client struct{ *kubernetes.Client }

// dial connects to the store. The connection ends with it.
func (r *server) dial() (client, error) {
	c, err := kubernetes.New(clientv3.Config{
		Endpoints: []string{"unix://" + r.socket},
		DialOptions: []grpc.DialOption{
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, "unix", r.socket)
				return counted{c, &r.sent}, err
			}),
		},
	})
	if err != nil {
		return client{}, fmt.Errorf("connect to the store: %w", err)
	}
	r.closers = append(r.closers, func() { _ = c.Close() })
	return client{c}, nil
}

// counted adds up what a connection receives.
type counted struct {
	net.Conn

	received *atomic.Int64
}

// Read implements net.Conn.
func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	return n, err
}

// get returns the revision of a key, 0 if there is none.
func (c client) get(ctx context.Context, key string) (int64, error) {
	r, err := c.Kubernetes.Get(ctx, key, kubernetes.GetOptions{})
	if err != nil || r.KV == nil {
		return 0, err
	}
	return r.KV.ModRevision, nil
}

// put writes key if its revision is still the given one (0: if there is none)
// and returns the new revision.
func (c client) put(ctx context.Context, key string, value []byte, revision int64) (int64, error) {
	r, err := c.Kubernetes.OptimisticPut(ctx, key, value, revision, kubernetes.PutOptions{GetOnFailure: revision != 0})
	if err != nil {
		return 0, fmt.Errorf("put %s: %w", key, err)
	}
	if !r.Succeeded {
		return 0, fmt.Errorf("put %s at revision %d: somebody else has written it", key, revision)
	}
	return r.Revision, nil
}

// fill creates count keys of size bytes below prefix, with eight connections.
func (b *bench) fill(ctx context.Context, prefix string, count, size int) error {
	const workers = 8
	value := bytes.Repeat([]byte("x"), size)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		c, err := b.dial()
		if err != nil {
			return err
		}
		wg.Go(func() {
			for i := w; i < count && errs[w] == nil; i += workers {
				_, errs[w] = c.put(ctx, fmt.Sprintf("%s%06d", prefix, i), value, 0)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// load runs step in every worker, over and over, for a warm-up and then for
// the window, and returns how long each step in the window took, in
// milliseconds, and how many steps were done per second.
func load(ctx context.Context, workers int, warm, window time.Duration, step func(ctx context.Context, worker, n int) error) (took []float64, perSecond float64, err error) {
	begin := time.Now().Add(warm)
	end := begin.Add(window)
	all := make([][]float64, workers)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for n := 0; ; n++ {
				at := time.Now()
				if at.After(end) {
					return
				}
				if errs[w] = step(ctx, w, n); errs[w] != nil {
					return
				}
				if at.After(begin) {
					all[w] = append(all[w], ms(time.Since(at)))
				}
			}
		})
	}
	wg.Wait()
	for _, t := range all {
		took = append(took, t...)
	}
	return took, float64(len(took)) / window.Seconds(), errors.Join(errs...)
}

// timed runs step n times and returns how long each took, in milliseconds.
func timed(n int, step func(i int) error) ([]float64, error) {
	var took []float64
	for i := range n {
		begin := time.Now()
		if err := step(i); err != nil {
			return took, err
		}
		took = append(took, ms(time.Since(begin)))
	}
	return took, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
