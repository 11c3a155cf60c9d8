package helm

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

// workers is how many charts are worked on at once: a chart's hooks may take
// their time, and the next one should not have to wait for them.
const workers = 2

// worker is one run of the controller.
type worker struct {
	o       Options
	config  *rest.Config
	kube    kubernetes.Interface
	dynamic dynamic.Interface
	meta    metadata.Interface
	queue   workqueue.TypedDelayingInterface[types.NamespacedName]
	watches *watches
	now     func() time.Time

	mu       sync.Mutex
	attempts map[types.NamespacedName]*attempts // guarded by mu
	busy     int                                // guarded by mu; actions under way
}

// attempts counts what failed in a row, for one hash of a chart.
type attempts struct {
	hash   string
	failed int
	// due is when the next may be made; a change of the chart comes earlier.
	due time.Time
}

// work runs the controller until ctx ends.
func work(ctx context.Context, config *rest.Config, o Options) error {
	w := &worker{o: o, config: config, now: time.Now, attempts: make(map[types.NamespacedName]*attempts)}
	var err error
	if w.kube, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	if w.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return fmt.Errorf("make dynamic client: %w", err)
	}
	if w.meta, err = metadata.NewForConfig(metadata.ConfigFor(config)); err != nil {
		return fmt.Errorf("make metadata client: %w", err)
	}
	w.queue = workqueue.NewTypedDelayingQueue[types.NamespacedName]()

	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, klog.Background()))
	defer cancel()
	context.AfterFunc(ctx, w.queue.ShutDown)
	w.watches = newWatches(ctx, w.meta, &wg, w.notify)
	if err := w.watches.all(ctx, charts); err != nil {
		return fmt.Errorf("watch HelmCharts: %w", err)
	}
	if err := w.watches.all(ctx, configs); err != nil {
		return fmt.Errorf("watch HelmChartConfigs: %w", err)
	}
	wg.Go(func() { watchStatic(ctx, o.Static, w.watches.tellFiles, o.Logger) })
	for range workers {
		wg.Go(func() {
			for w.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	return nil
}

// notify has a chart looked at; at once, if what it waits for may be there now.
func (w *worker) notify(key types.NamespacedName, needed bool) {
	if needed {
		w.impatient(key)
	}
	w.queue.Add(key)
}

// next handles one chart; it returns false when the queue is shut down.
func (w *worker) next(ctx context.Context) bool {
	key, quit := w.queue.Get()
	if quit {
		return false
	}
	defer w.queue.Done(key)
	again, err := w.sync(ctx, key)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		w.o.Logger.Warn("HelmChart could not be handled, trying again", "chart", key.String(), "error", err)
		w.queue.AddAfter(key, apiPause)
	case again > 0:
		w.queue.AddAfter(key, again)
	}
	return true
}

// apiPause is the time until the API is asked again that did not answer.
const apiPause = 5 * time.Second

// acting marks that Helm is at work, until the function returned is called. When
// the last one is done its memory goes back to the system: Helm reads all of the
// API's discovery and the chart's whole history.
func (w *worker) acting() func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.busy--; w.busy == 0 {
			debug.FreeOSMemory()
		}
	}
}

// logger is for one chart.
func (w *worker) logger(key types.NamespacedName) *slog.Logger {
	return w.o.Logger.With("chart", key.String())
}
