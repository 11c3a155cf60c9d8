package bridge

import "github.com/prometheus/client_golang/prometheus"

// watchMetrics are figures of the watches of a bridge.
type watchMetrics struct {
	bridge *Bridge

	streams, watches, lagging, queued *prometheus.Desc
}

var _ prometheus.Collector = (*watchMetrics)(nil)

// Metrics returns the figures of the watches, those of nothing while the
// bridge does not run.
func (b *Bridge) Metrics() prometheus.Collector {
	label := prometheus.Labels{"store": b.Label}
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("skiff_datastore_"+name, help, nil, label)
	}
	return &watchMetrics{
		bridge:  b,
		streams: desc("watch_streams", "Connections of clients that watch."),
		watches: desc("watches", "Watches of all clients."),
		lagging: desc("lagging_watches", "Watches that are behind and read from the database."),
		queued:  desc("queued_events", "Events that wait to be sent to clients."),
	}
}

// Describe implements prometheus.Collector.
func (m *watchMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.streams, m.watches, m.lagging, m.queued} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m *watchMetrics) Collect(to chan<- prometheus.Metric) {
	h := m.bridge.hub.Load()
	if h == nil {
		return
	}
	var streams, watches, lagging, queued int
	h.mu.Lock()
	for s := range h.streams {
		streams++
		watches += len(s.watches)
		lagging += len(s.lagging)
		queued += len(s.queue)
	}
	h.mu.Unlock()
	for _, g := range []struct {
		desc  *prometheus.Desc
		value int
	}{{m.streams, streams}, {m.watches, watches}, {m.lagging, lagging}, {m.queued, queued}} {
		to <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(g.value))
	}
}
