package sqlite

import (
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// slowRead is how long a read may take before it counts as slow.
const slowRead = 250 * time.Millisecond

// metrics are the figures of one store. They outlive it, so that a component
// has them before it is open and after it has closed.
type metrics struct {
	commit     prometheus.Histogram
	batch      prometheus.Histogram
	compaction prometheus.Histogram
	slow       prometheus.Counter
	failed     prometheus.Counter

	store  atomic.Pointer[store]
	gauges []gauge
}

// gauge is a figure that is read from an open store when somebody asks.
type gauge struct {
	desc  *prometheus.Desc
	value func(*store) float64
}

var _ prometheus.Collector = (*metrics)(nil)

// newMetrics returns the figures of the store of that name.
func newMetrics(name string) *metrics {
	label := prometheus.Labels{"store": name}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "skiff_datastore_" + name, Help: help, ConstLabels: label, Buckets: buckets})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "skiff_datastore_" + name, Help: help, ConstLabels: label})
	}
	m := &metrics{
		commit:     histogram("commit_seconds", "Time to commit a batch of changes, with the sync if there was one.", prometheus.ExponentialBuckets(0.0001, 2, 16)),
		batch:      histogram("batch_changes", "Changes that were committed together.", prometheus.ExponentialBuckets(1, 2, 9)),
		compaction: histogram("compaction_slice_seconds", "Time for which a slice of a compaction held up writes.", prometheus.ExponentialBuckets(0.0005, 2, 12)),
		slow:       counter("slow_reads_total", "Reads that took longer than 250 ms."),
		failed:     counter("failed_changes_total", "Changes that could not be written."),
	}
	add := func(name, help string, value func(*store) float64) {
		m.gauges = append(m.gauges, gauge{prometheus.NewDesc("skiff_datastore_"+name, help, nil, label), value})
	}
	add("revision", "The newest revision.", func(s *store) float64 { return locked(s, func() float64 { return float64(s.current) }) })
	add("compacted_revision", "The oldest revision that can be read.", func(s *store) float64 { return locked(s, func() float64 { return float64(s.compacted) }) })
	add("keys", "Keys in memory.", func(s *store) float64 {
		return locked(s, func() float64 {
			if s.keys == nil {
				return 0
			}
			return float64(s.keys.Len())
		})
	})
	add("queued_changes", "Changes that wait for the writer.", func(s *store) float64 { return float64(len(s.changes)) })
	add("database_bytes", "Size of the database file.", func(s *store) float64 { return fileSize(s.file.path) })
	add("log_bytes", "Size of the write-ahead log.", func(s *store) float64 { return fileSize(s.file.path + "-wal") })
	add("disk_free_bytes", "Free space on the disk of the database.", func(s *store) float64 {
		sp, err := s.space.look()
		if err != nil {
			return 0
		}
		return float64(sp.free)
	})
	return m
}

func locked(s *store, value func() float64) float64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return value()
}

func fileSize(path string) float64 {
	fi, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return float64(fi.Size())
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, c := range m.parts() {
		c.Describe(to)
	}
	for _, g := range m.gauges {
		to <- g.desc
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	for _, c := range m.parts() {
		c.Collect(to)
	}
	s := m.store.Load()
	if s == nil {
		return
	}
	for _, g := range m.gauges {
		to <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value(s))
	}
}

func (m *metrics) parts() []prometheus.Collector {
	return []prometheus.Collector{m.commit, m.batch, m.compaction, m.slow, m.failed}
}
