package bridge

import (
	"strings"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

const (
	// compactKey is where the API server keeps how far it has compacted. Kine
	// has a row of that name for itself, stores the API server's under
	// compactRow, and writes the key's version into its value.
	compactKey = "compact_rev_key"
	compactRow = "compact_rev_key_apiserver"

	// gapPrefix begins the names of rows that only fill a hole in the
	// revisions.
	gapPrefix = "gap-"
)

// event is one change of one key, in etcd's form. It is shared by all watches
// and never changed.
type event struct {
	key      string
	revision int64
	size     int // bytes it takes on the wire, roughly
	full     *mvccpb.Event
	brief    *mvccpb.Event // without the previous value
}

func newEvent(e *server.Event) *event {
	full := &mvccpb.Event{Type: mvccpb.PUT, Kv: keyValue(e.KV)}
	if e.Delete {
		// A tombstone in etcd has nothing but these.
		full.Type, full.Kv = mvccpb.DELETE, &mvccpb.KeyValue{Key: full.Kv.Key, ModRevision: e.KV.ModRevision}
	}
	brief := &mvccpb.Event{Type: full.Type, Kv: full.Kv}
	if !e.Create && e.PrevKV != nil {
		full.PrevKv = keyValue(e.PrevKV)
	}
	return &event{key: e.KV.Key, revision: e.KV.ModRevision, size: full.Size(), full: full, brief: brief}
}

func keyValue(kv *server.KeyValue) *mvccpb.KeyValue {
	to := &mvccpb.KeyValue{
		Key: []byte(kv.Key), Value: kv.Value, Version: kv.Version, Lease: kv.Lease,
		CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
	}
	if kv.Key == compactRow {
		to.Key = []byte(compactKey)
		to.Version, to.Value = server.DecodeVersion(kv.Value)
	}
	return to
}

// gap reports whether a row is no key of anybody's.
func gap(e *server.Event) bool { return strings.HasPrefix(e.KV.Key, gapPrefix) }

// keyRange is etcd's: one key if end is empty, all keys from key on if end is
// "\x00", otherwise those from key up to but without end.
type keyRange struct{ key, end string }

func newRange(key, end []byte) keyRange {
	r := keyRange{string(key), string(end)}
	if r.key == compactKey && r.end == "" {
		r.key = compactRow
	}
	return r
}

func (r keyRange) empty() bool { return r.end != "" && r.end != "\x00" && r.key >= r.end }

func (r keyRange) contains(key string) bool {
	switch r.end {
	case "":
		return key == r.key
	case "\x00":
		return key >= r.key
	default:
		return key >= r.key && key < r.end
	}
}

// query is the range in kine's words, which have none for "from key on": all
// keys are asked for then.
func (r keyRange) query() (key, end string) {
	if r.end == "\x00" {
		return "", ""
	}
	return r.key, r.end
}
