package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

const (
	// fresh is how old an answer of a kubelet may be. The kubelet itself
	// measures every ten seconds or so.
	fresh = 10 * time.Second
	// kubeletTimeout is how long one kubelet may take before its node is left
	// out of the answer.
	kubeletTimeout = 5 * time.Second
	// atOnce is how many kubelets are asked at the same time.
	atOnce = 16
)

// errNotBuilt is answered to requests that come before the API server can call
// itself.
var errNotBuilt = errors.New("the API server is still starting")

// kubelets asks the nodes what they and their pods use.
type kubelets struct {
	o       Options
	flights singleflight.Group

	mu     sync.Mutex
	client kubernetes.Interface // guarded by mu; nil before the first request
	cache  map[string]*usage    // guarded by mu; by node
	silent map[string]struct{}  // guarded by mu; nodes whose silence has been logged
	timer  *time.Timer          // guarded by mu; empties the cache
}

// usage is what a kubelet said.
type usage struct {
	at   time.Time
	node stats.NodeStats
	pods map[podKey]*stats.PodStats
}

type podKey struct{ namespace, name string }

func newKubelets(o Options) *kubelets {
	return &kubelets{o: o, cache: make(map[string]*usage), silent: make(map[string]struct{})}
}

// api is the client, made when it is first needed.
func (k *kubelets) api() (kubernetes.Interface, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.client != nil {
		return k.client, nil
	}
	config := k.o.Loopback()
	if config == nil {
		return nil, apierrors.NewServiceUnavailable(errNotBuilt.Error())
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("make client for the kubelets: %w", err))
	}
	k.client = client
	return client, nil
}

// of returns the usage of the nodes that answer. Which do not is logged when it
// begins and ends.
func (k *kubelets) of(ctx context.Context, nodes []string) (map[string]*usage, error) {
	client, err := k.api()
	if err != nil {
		return nil, err
	}
	found := make(map[string]*usage, len(nodes))
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, name := range nodes {
		g.Go(func() error {
			u, err := k.node(ctx, client, name)
			k.report(ctx, name, err)
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				found[name] = u
			}
			return nil
		})
	}
	return found, g.Wait()
}

// node asks one kubelet, unless it has been asked just now.
func (k *kubelets) node(ctx context.Context, client kubernetes.Interface, name string) (*usage, error) {
	k.mu.Lock()
	cached := k.cache[name]
	k.mu.Unlock()
	if cached != nil && time.Since(cached.at) < fresh {
		return cached, nil
	}
	// Who asks together shares the answer, and nobody's leaving ends it.
	answer := k.flights.DoChan(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), kubeletTimeout)
		defer cancel()
		return k.fetch(ctx, client, name)
	})
	select {
	case r := <-answer:
		if r.Err != nil {
			return nil, r.Err
		}
		u, ok := r.Val.(*usage)
		if !ok {
			return nil, fmt.Errorf("ask the kubelet of %s: got %T", name, r.Val)
		}
		return u, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (k *kubelets) fetch(ctx context.Context, client kubernetes.Interface, name string) (*usage, error) {
	raw, err := client.CoreV1().RESTClient().Get().Resource("nodes").Name(name).SubResource("proxy").
		Suffix("stats", "summary").Param("only_cpu_and_memory", "true").SetHeader("Accept", "application/json").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the kubelet of %s: %w", name, err)
	}
	var s stats.Summary
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("read the answer of the kubelet of %s: %w", name, err)
	}
	u := &usage{at: time.Now(), node: s.Node, pods: make(map[podKey]*stats.PodStats, len(s.Pods))}
	for i, p := range s.Pods {
		u.pods[podKey{p.PodRef.Namespace, p.PodRef.Name}] = &s.Pods[i]
	}
	k.keep(name, u)
	return u, nil
}

// keep holds on to an answer for as long as it is fresh. Nothing is left when
// nobody asks any more.
func (k *kubelets) keep(name string, u *usage) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cache[name] = u
	if k.timer == nil {
		k.timer = time.AfterFunc(fresh, k.expire)
	}
}

func (k *kubelets) expire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, u := range k.cache {
		if time.Since(u.at) >= fresh {
			delete(k.cache, name)
		}
	}
	k.timer = nil
	if len(k.cache) > 0 {
		k.timer = time.AfterFunc(fresh, k.expire)
	}
}

// report logs that a node has fallen silent, or speaks again, once.
func (k *kubelets) report(ctx context.Context, name string, err error) {
	if err != nil && ctx.Err() != nil {
		return // the one who asked has left
	}
	k.mu.Lock()
	_, was := k.silent[name]
	if err != nil {
		k.silent[name] = struct{}{}
	} else {
		delete(k.silent, name)
	}
	k.mu.Unlock()
	switch {
	case err != nil && !was:
		k.o.Logger.Warn("no figures from a node, it is left out", slog.String("node", name), slog.Any("err", err))
	case err == nil && was:
		k.o.Logger.Info("figures from a node again", slog.String("node", name))
	}
}
