package main

// row says what a figure is and what it has to reach. A goal of 0 is none.
type row struct {
	name string
	unit string
	more bool    // more is better
	max  bool    // the largest of all rounds counts, not their median
	etcd float64 // goal of the ratio to etcd
	kine float64 // goal of the ratio to kine
	most float64 // goal of the figure itself
}

// rows are all figures, in the order of the table. The goals are those of the
// issue that this program was written for.
func rows() []row {
	return []row{
		{name: "update c=32", unit: "ops/s", more: true, etcd: 0.95, kine: 1.4},
		{name: "update c=32 p50", unit: "ms"},
		{name: "update c=32 p99", unit: "ms", etcd: 1.2, kine: 0.25},
		{name: "update c=32, CPU of the store", unit: "µs"},
		{name: "update c=32, disk flushes", unit: "per op"},
		{name: "update c=32 on one connection", unit: "ops/s", more: true},
		{name: "update c=32 on one connection p99", unit: "ms"},
		{name: "update c=1 p50", unit: "ms"},
		{name: "update c=1 p99", unit: "ms"},
		{name: "create c=32", unit: "ops/s", more: true},
		{name: "create c=32 p99", unit: "ms"},
		{name: "watch latency at 200/s p50", unit: "ms"},
		{name: "watch latency at 200/s p99", unit: "ms"},
		{name: "LIST through the cacher p50", unit: "ms", etcd: 3, kine: 0.01},
		{name: "LIST through the cacher p90", unit: "ms"},
		{name: "LIST through the cacher without writes p50", unit: "ms"},
		{name: "caches that lost an object", unit: ""},
		{name: "progress request p50", unit: "ms"},
		{name: "Range limit=1 p50", unit: "ms", etcd: 2, kine: 0.05},
		{name: "get p50", unit: "ms"},
		{name: "list 10,000 p50", unit: "ms"},
		{name: "list 10,000, CPU of the store", unit: "ms"},
		{name: "list 10,000 in pages of 500 p50", unit: "ms"},
		{name: "lease update, file bytes", unit: "B", etcd: 6, kine: 0.18},
		{name: "lease update, page bytes", unit: "B"},
		{name: "lease update, disk bytes", unit: "B"},
		{name: "lease update, file bytes with checkpoints", unit: "B"},
		{name: "lease update, page bytes with checkpoints", unit: "B"},
		{name: "lease update, disk bytes with checkpoints", unit: "B"},
		{name: "lease update at 10/s, file bytes", unit: "B"},
		{name: "lease update at 10/s, page bytes", unit: "B"},
		{name: "lease update at 10/s, disk bytes", unit: "B"},
		{name: "write during compaction, longest", unit: "ms", most: 50, kine: 0.1},
		{name: "write before compaction, longest", unit: "ms"},
		{name: "compaction call", unit: "ms"},
		{name: "WAL size, largest", unit: "MiB", most: 16, max: true},
		{name: "database size", unit: "MB"},
		{name: "database size after compaction", unit: "MB"},
		{name: "memory when empty", unit: "MB"},
		{name: "memory", unit: "MB", etcd: 0.4, kine: 1},
		{name: "memory, anonymous", unit: "MB"},
		{name: "memory after lists", unit: "MB"},
		{name: "memory after lists, anonymous", unit: "MB"},
		{name: "memory at rest", unit: "MB"},
		{name: "memory at rest, anonymous", unit: "MB"},
		{name: "start", unit: "ms"},
		{name: "start, file bytes", unit: "MB"},
		{name: "start, disk bytes", unit: "MB"},
		{name: "stop", unit: "ms"},
	}
}

// reached says whether value is as good as goal or better.
func (r row) reached(value, goal float64) bool {
	if r.more {
		return value >= goal
	}
	return value <= goal
}
