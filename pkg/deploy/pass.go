package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/internal/pause"
	"skiff/pkg/status"
)

// state is what the worker knows about one source, by the name of its AddOn.
type state struct {
	src     source
	tried   bool   // an attempt has been made with the contents sum
	sum     string // of the last attempt
	parsed  bool   // objects is what the file says
	objects []ref  // of the last attempt that could be parsed
	before  []ref  // applied at some time and perhaps not in objects any more
	err     error  // of the last attempt
	retry   time.Time
	failed  int    // attempts in a row
	written string // the AddOn as last recorded
	told    string // the error as last reported
}

// worker makes passes over all sources. It is used by one goroutine.
type worker struct {
	o           Options
	cluster     *cluster
	states      map[string]*state
	restores    *restores
	books       *books // nil until the AddOns have been read
	now         func() time.Time
	kick        func()
	bundledDone func(error)
}

const (
	// settleTime lets a burst of changes, and a file being written, come to rest.
	settleTime = 300 * time.Millisecond
	minRetry   = 200 * time.Millisecond
	maxRetry   = time.Minute
	// maxRefused is for what the API refuses as wrong: only a change elsewhere in
	// the cluster could make it right.
	maxRefused = 10 * time.Minute
)

// run makes a pass at start, after changes and when a retry is due.
func (w *worker) run(ctx context.Context, changed <-chan struct{}) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-changed:
			if !pause.Quiet(ctx, changed, settleTime) {
				return nil
			}
		}
		timer.Stop()
		if next := w.pass(ctx); next > 0 {
			timer.Reset(next)
		}
	}
}

// pass applies what is due and returns when to come again; zero means not
// before something changes.
func (w *worker) pass(ctx context.Context) time.Duration {
	sources, err := scan(w.o)
	if err != nil {
		if !errors.Is(err, errNoDir) {
			w.o.Notes.Set("manifests", err.Error())
			return maxRetry
		}
		w.o.Notes.Set("manifests", "directory "+w.o.Dir+" is missing; nothing is applied or removed until it is back")
		return 0
	}
	w.o.Notes.Clear("manifests")
	w.observe(sources)

	w.apply(ctx, w.due(true))
	w.bundledDone(w.bundledError())
	w.apply(ctx, w.due(false))
	if ctx.Err() != nil {
		return 0
	}
	w.tell()
	w.list(sources)
	if err := w.keepBooks(ctx); err != nil && ctx.Err() == nil {
		w.o.Logger.Warn("AddOn objects could not be brought up to date; will try again", "error", err)
		return min(maxRetry, w.next(5*time.Second))
	}
	return w.next(0)
}

// observe takes the present sources into the states. Sources that are gone
// keep their state, without source, until their objects have been removed.
func (w *worker) observe(sources []source) {
	for _, st := range w.states {
		st.src.Path = ""
	}
	for _, s := range sources {
		st := w.state(s.Name)
		st.src = s
	}
}

func (w *worker) state(name string) *state {
	st, ok := w.states[name]
	if !ok {
		st = &state{src: source{Name: name}}
		w.states[name] = st
	}
	return st
}

// gone reports whether the objects of the state are unwanted altogether.
func (st *state) gone() bool { return st.src.Path == "" || st.src.Disabled }

// due lists the states that need an attempt now.
func (w *worker) due(bundled bool) []*state {
	var out []*state
	for _, name := range sortedKeys(w.states) {
		st := w.states[name]
		if st.gone() || st.src.Skip || st.src.Bundled != bundled {
			continue
		}
		again := st.err != nil && !st.retry.IsZero() && !w.now().Before(st.retry)
		if !st.tried || st.sum != st.src.Sum || again || w.restores.take(name) {
			out = append(out, st)
		}
	}
	return out
}

// apply makes one attempt for the states: what others need first, across files.
func (w *worker) apply(ctx context.Context, due []*state) {
	var tasks []task
	for _, st := range due {
		st.tried, st.sum, st.err, st.retry = true, st.src.Sum, nil, time.Time{}
		objects, err := parse(st.src.Data)
		if st.src.Err != nil {
			err = st.src.Err
		}
		if err != nil {
			st.err = err // Not before the file changes.
			continue
		}
		st.remember(st.objects)
		st.objects, st.parsed = nil, true
		for _, u := range objects {
			tasks = append(tasks, task{source: st.src.Name, object: u})
		}
	}
	order(tasks)
	w.applyTasks(ctx, tasks)
	for _, st := range due {
		w.schedule(st)
	}
}

func (w *worker) applyTasks(ctx context.Context, tasks []task) {
	if len(tasks) > 0 && tasks[0].object.GetKind() != "Namespace" {
		// At first start the API server may not have made it yet. An error shows
		// again with the objects that need it.
		_ = w.cluster.ensureNamespace(ctx, metav1.NamespaceSystem)
	}
	var crds []task
	for i, t := range tasks {
		if ctx.Err() != nil {
			return
		}
		if len(crds) > 0 && rank(t.object.GroupVersionKind().GroupKind()) > rank(crdKind) {
			w.establish(ctx, crds)
			crds = nil
		}
		st := w.states[t.source]
		r, err := w.cluster.apply(ctx, t.object)
		st.objects = append(st.objects, r)
		if err != nil {
			st.err = errors.Join(st.err, err)
			continue
		}
		w.restores.watch(t, r)
		if t.object.GroupVersionKind().GroupKind() == crdKind {
			crds = append(crds, tasks[i])
		}
	}
	w.establish(ctx, crds)
}

// establish waits for new kinds, then lets those that wait for one try again.
func (w *worker) establish(ctx context.Context, crds []task) {
	if len(crds) == 0 {
		return
	}
	for _, t := range crds {
		if err := w.cluster.waitEstablished(ctx, t.object.GetName()); err != nil {
			st := w.states[t.source]
			st.err = errors.Join(st.err, err)
		}
	}
	w.cluster.mapper.Reset()
	for _, st := range w.states {
		if st.err != nil && st.parsed && !st.retry.IsZero() {
			st.retry = w.now()
			w.kick()
		}
	}
}

// schedule decides when a state that failed is tried again.
func (w *worker) schedule(st *state) {
	if st.err == nil {
		if st.failed > 0 || st.written == "" {
			w.o.Logger.Debug("manifest applied", "manifest", st.src.Path, "objects", len(st.objects))
		}
		st.failed = 0
		return
	}
	st.failed++
	if !st.parsed || st.src.Err != nil {
		return
	}
	limit := maxRetry
	if apierrors.IsInvalid(st.err) || apierrors.IsBadRequest(st.err) {
		limit = maxRefused
	}
	pause := minRetry << min(st.failed-1, 20)
	st.retry = w.now().Add(min(pause, limit))
}

// next returns how long until the first retry, or otherwise def.
func (w *worker) next(def time.Duration) time.Duration {
	for _, st := range w.states {
		if st.err == nil || st.retry.IsZero() || st.gone() || st.src.Skip {
			continue
		}
		if d := max(st.retry.Sub(w.now()), time.Millisecond); def == 0 || d < def {
			def = d
		}
	}
	return def
}

// bundledError says what of skiff's own manifests is still missing.
func (w *worker) bundledError() error {
	var errs []error
	for _, name := range sortedKeys(w.states) {
		st := w.states[name]
		if st.src.Bundled && !st.gone() && !st.src.Skip && st.err != nil {
			errs = append(errs, fmt.Errorf("bundled manifest %s: %w", name, st.err))
		}
	}
	return errors.Join(errs...)
}

// remember adds refs to those that may have to be pruned.
func (st *state) remember(refs []ref) {
	for _, r := range stale(refs, st.before) {
		if !r.loose { // It has never been applied.
			st.before = append(st.before, r)
		}
	}
}

// tell reports every state's error once, and takes it back.
func (w *worker) tell() {
	for name, st := range w.states {
		msg := ""
		if st.err != nil && !st.gone() && !st.src.Skip {
			msg = st.src.Path + ": " + st.err.Error()
		}
		switch {
		case msg == "" && st.told != "":
			w.o.Notes.Clear(status.ManifestNote + name)
			w.o.Logger.Info("manifest works now", "manifest", name)
		case msg != "" && msg != st.told:
			w.o.Notes.Set(status.ManifestNote+name, msg)
			w.o.Logger.Warn("manifest does not work", "manifest", st.src.Path, "error", st.err)
		}
		st.told = msg
	}
}
