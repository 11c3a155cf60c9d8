package helm

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// The pauses between attempts double from minPause. What the API or Helm calls
// wrong gets the longer ones: only a change elsewhere could make it right.
const (
	minPause   = 5 * time.Second
	maxPause   = 10 * time.Minute
	maxRefused = time.Hour
	// resumed is how many failures a chart is taken to have had that failed
	// before skiff was restarted.
	resumed = 4
)

// pauseAfter is the pause after the n-th failure in a row.
func pauseAfter(n int, refused bool) time.Duration {
	limit := maxPause
	if refused {
		limit = maxRefused
	}
	d := minPause << min(n-1, 20)
	return min(d, limit)
}

// hold returns how long to wait before the chart is tried with this hash; zero
// means now. What is counted is the hash together with the generation of the
// object, so that any change of the object is tried at once.
func (w *worker) hold(key types.NamespacedName, p *plan) time.Duration {
	hash := p.attempt()
	w.mu.Lock()
	defer w.mu.Unlock()
	a, ok := w.attempts[key]
	if !ok && p.chart.Status.FailedHash == p.hash {
		a = &attempts{hash: hash, failed: resumed, due: w.now().Add(pauseAfter(resumed, false))}
		w.attempts[key] = a
	}
	if a == nil || a.hash != hash {
		return 0
	}
	return max(0, a.due.Sub(w.now()))
}

// failure notes one and returns the number in a row and the pause.
func (w *worker) failure(key types.NamespacedName, p *plan, refused bool) (n int, pause time.Duration) {
	hash := p.attempt()
	w.mu.Lock()
	defer w.mu.Unlock()
	a, ok := w.attempts[key]
	if !ok || a.hash != hash {
		a = &attempts{hash: hash}
		w.attempts[key] = a
	}
	a.failed++
	pause = pauseAfter(a.failed, refused)
	a.due = w.now().Add(pause)
	return a.failed, pause
}

// forget starts the count anew.
func (w *worker) forget(key types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.attempts, key)
}

// impatient lets the next attempt be made at once, since something that the
// chart needs has changed.
func (w *worker) impatient(key types.NamespacedName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a, ok := w.attempts[key]; ok {
		a.due = w.now()
	}
}

// failures is how often the chart failed in a row.
func (w *worker) failures(key types.NamespacedName) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a, ok := w.attempts[key]; ok {
		return a.failed
	}
	return 0
}
