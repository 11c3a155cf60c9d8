package offline

import (
	"bytes"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/agent/offline/journal"
	"skiff/pkg/agent/offline/wire"
)

// object is one object as an API server has sent it. Its body is in memory
// until it has been written.
type object struct {
	version uint64
	size    int32
	streams int32 // that have it, and lists that are being read
	pinned  bool  // kept without a stream
	local   bool  // changed by this node since
	dirty   bool
	onDisk  bool
	sum     uint64 // of what matters, for objects that change without a reason
	body    []byte // nil if it is only on disk
	at      journal.Place
}

// stream is a list as one client of this process sees it, kept up to date by
// the watch that follows. Several clients with the same question share it.
type stream struct {
	table   string
	version string
	listed  bool // complete
	members map[string]struct{}
	// pages are what has been read of a list that comes in pages.
	pages map[string]struct{}
	// watched counts open watches; used is when the last one or a list began.
	watched int
	used    time.Time
	// served says that a client has got its list from here and not from a
	// server: it may not go on from there.
	served bool
	// versionOnDisk is compared before a write.
	versionOnDisk string
}

// state is all that is known. Cache.mu guards it.
type state struct {
	tables  map[string]map[string]*object
	streams map[string]*stream
	// changes of streams that have not been written, in order.
	changes []header
	dirty   map[*object]objectName
	live    int64 // bytes of all bodies
	waiting int64 // bytes of dirty bodies
	due     time.Time
}

// objectName is the place of an object.
type objectName struct{ table, key string }

func newState() *state {
	return &state{tables: map[string]map[string]*object{}, streams: map[string]*stream{}, dirty: map[*object]objectName{}}
}

// header begins each record of the journal.
type header struct {
	Op      op     `json:"op"`
	Table   string `json:"t,omitempty"`
	Key     string `json:"k,omitempty"`
	Stream  string `json:"s,omitempty"`
	Version string `json:"v,omitempty"`
	Pinned  bool   `json:"p,omitempty"`
	Local   bool   `json:"l,omitempty"`
}

type op string

const (
	opPut     op = "put"     // an object; its body follows the header
	opDrop    op = "drop"    // an object is gone
	opJoin    op = "join"    // an object belongs to a stream
	opLeave   op = "leave"   // and no longer does
	opVersion op = "version" // of a stream, which is complete
	opForget  op = "forget"  // a stream
)

func (s *state) object(table, key string) *object { return s.tables[table][key] }

// note has a change written before long.
func (s *state) note(now time.Time, table string, h *header) {
	if h != nil {
		s.changes = append(s.changes, *h)
	}
	due := now.Add(rules[resourceOf(table)].delay)
	if s.due.IsZero() || due.Before(s.due) {
		s.due = due
	}
}

// put takes in an object unless a newer one is known. What a list says counts
// in any case: a server that was restored from a snapshot has older versions.
// body is copied if kept.
func (s *state) put(now time.Time, table string, m wire.Meta, body []byte, pin, listed bool) {
	version := parseVersion(m.Version)
	if version == 0 || m.Name == "" {
		return
	}
	k := key(m.Namespace, m.Name)
	o := s.object(table, k)
	known := o != nil && (version < o.version && !listed || version == o.version && !o.local)
	if !known {
		s.store(now, table, k, version, body, pin, false)
	} else if pin && !o.pinned {
		o.pinned = true
		s.mark(now, table, k, o)
	}
}

// store replaces an object.
func (s *state) store(now time.Time, table, key string, version uint64, body []byte, pin, local bool) {
	o := s.object(table, key)
	if o == nil {
		o = &object{}
		if s.tables[table] == nil {
			s.tables[table] = map[string]*object{}
		}
		s.tables[table][key] = o
	}
	sum := significant(table, body)
	if sum != 0 && sum == o.sum && !o.local && !local {
		return // Nothing in it has changed that is worth a write.
	}
	s.live += int64(len(body)) - int64(o.size)
	o.version, o.sum, o.local, o.pinned = version, sum, local, o.pinned || pin
	o.size = int32(len(body)) //nolint:gosec // Bounded by wire.MaxObject.
	if o.dirty {
		s.waiting -= int64(len(o.body))
	}
	o.body = bytes.Clone(body)
	s.waiting += int64(len(body))
	s.mark(now, table, key, o)
}

func (s *state) mark(now time.Time, table, key string, o *object) {
	o.dirty = true
	s.dirty[o] = objectName{table, key}
	s.note(now, table, nil)
}

// drop forgets an object.
func (s *state) drop(now time.Time, table, key string) {
	o := s.object(table, key)
	if o == nil {
		return
	}
	delete(s.tables[table], key)
	s.live -= int64(o.size)
	if o.dirty {
		s.waiting -= int64(len(o.body))
	}
	delete(s.dirty, o)
	if o.onDisk {
		s.note(now, table, &header{Op: opDrop, Table: table, Key: key})
	}
}

// release takes an object away from a stream.
func (s *state) release(now time.Time, table, key string) {
	o := s.object(table, key)
	if o == nil {
		return
	}
	if o.streams--; o.streams <= 0 && !o.pinned {
		s.drop(now, table, key)
	}
}

// open returns a stream, which it makes if need be.
func (s *state) open(name, table string) *stream {
	st := s.streams[name]
	if st == nil {
		st = &stream{table: table, members: map[string]struct{}{}}
		s.streams[name] = st
	}
	return st
}

func (s *state) join(now time.Time, name string, st *stream, key string) {
	if _, ok := st.members[key]; ok {
		return
	}
	o := s.object(st.table, key)
	if o == nil {
		return
	}
	st.members[key] = struct{}{}
	o.streams++
	s.note(now, st.table, &header{Op: opJoin, Stream: name, Table: st.table, Key: key})
}

func (s *state) leave(now time.Time, name string, st *stream, key string) {
	if _, ok := st.members[key]; !ok {
		return
	}
	delete(st.members, key)
	s.note(now, st.table, &header{Op: opLeave, Stream: name, Table: st.table, Key: key})
	s.release(now, st.table, key)
}

// stage takes in an object of a list that has not come to its end, and holds it
// for as long.
func (s *state) stage(now time.Time, table string, m wire.Meta, body []byte, staged map[string]struct{}) {
	s.put(now, table, m, body, false, true)
	k := key(m.Namespace, m.Name)
	o := s.object(table, k)
	if _, ok := staged[k]; ok || o == nil {
		return
	}
	o.streams++
	staged[k] = struct{}{}
}

// unstage lets go of a list that has come to its end, or will not.
func (s *state) unstage(now time.Time, table string, staged map[string]struct{}) {
	for k := range staged {
		s.release(now, table, k)
	}
}

// replace makes the members of a new list the stream's.
func (s *state) replace(now time.Time, name string, st *stream, staged map[string]struct{}, version string) {
	for _, key := range slices.Sorted(maps.Keys(st.members)) {
		if _, ok := staged[key]; !ok {
			s.leave(now, name, st, key)
		}
	}
	for key := range staged {
		s.join(now, name, st, key)
	}
	s.unstage(now, st.table, staged)
	s.unstage(now, st.table, st.pages) // Of a list that nobody read to its end.
	st.pages = nil
	st.version, st.served = version, false
	if !st.listed {
		st.listed = true
		s.note(now, st.table, nil)
	}
}

// forget drops a stream and what only it had.
func (s *state) forget(now time.Time, name string) {
	st := s.streams[name]
	if st == nil {
		return
	}
	for key := range st.members {
		s.release(now, st.table, key)
	}
	delete(s.streams, name)
	s.note(now, st.table, &header{Op: opForget, Stream: name})
}

// event takes in an event of a watch.
func (s *state) event(now time.Time, name string, st *stream, kind string, m wire.Meta, body []byte) {
	k := key(m.Namespace, m.Name)
	switch kind {
	case "ADDED", "MODIFIED":
		s.put(now, st.table, m, body, false, false)
		s.join(now, name, st, k)
	case "DELETED":
		if o := s.object(st.table, k); o != nil {
			o.pinned = false
		}
		s.leave(now, name, st, k)
	case "BOOKMARK":
	default:
		return
	}
	// Another watch of the same stream may be ahead of this one.
	if st.listed && parseVersion(m.Version) > parseVersion(st.version) {
		st.version = m.Version
	}
}

func parseVersion(text string) uint64 {
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return v
}

func formatVersion(v uint64) string { return strconv.FormatUint(v, 10) }

// significant is a sum over what of an object is worth keeping, 0 if it is all
// of it. A Node says every few minutes that nothing has changed.
func significant(table string, body []byte) uint64 {
	if table != nodes {
		return 0
	}
	var n corev1.Node
	if n.Unmarshal(body) != nil {
		return 0
	}
	n.ManagedFields, n.ResourceVersion = nil, ""
	n.Status.Images, n.Status.VolumesInUse = nil, nil
	for i := range n.Status.Conditions {
		n.Status.Conditions[i].LastHeartbeatTime = metav1.Time{}
	}
	text, err := n.Marshal()
	if err != nil {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write(text)
	return h.Sum64() | 1
}
