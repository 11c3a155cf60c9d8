package bridge

import (
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// deliver sends what is queued, brings lagging watches up to date, and reports
// progress when there is nothing else to do.
func (s *stream) deliver() error {
	for {
		select {
		case <-s.ws.Context().Done():
			return s.ws.Context().Err()
		case <-s.wake:
		}
		for more := true; more; {
			queue, behind, pos := s.next()
			var err error
			switch {
			case len(queue) > 0:
				err = s.send(queue)
			case behind != nil:
				err = s.catchUp(behind, pos)
			default:
				more = false
			}
			if err != nil {
				return err
			}
		}
	}
}

// next returns the queue; if it is empty, a watch that has to read the
// database, and the hub's position.
func (s *stream) next() ([]item, *watch, int64) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(s.queue) == 0 {
		s.lagging = slices.DeleteFunc(s.lagging, func(w *watch) bool { return h.join(w) })
	}
	if len(s.queue) == 0 && len(s.lagging) > 0 {
		return nil, s.lagging[0], h.pos
	}
	if len(s.queue) == 0 {
		s.report(h.pos)
	}
	queue := s.queue
	s.queue, s.queued = nil, 0
	return queue, nil, h.pos
}

// join makes a lagging watch live if the hub remembers what it lacks.
func (h *hub) join(w *watch) bool {
	if w.next <= h.floor || (!w.begun && w.next <= h.compacted) {
		return false
	}
	w.begun = true
	h.live[w] = struct{}{}
	for _, e := range h.recent {
		if e.revision >= w.next && w.keys.contains(e.key) && w.wants(e) {
			w.stream.append(w, e)
		}
	}
	return true
}

// report queues the progress that is due. Everything up to pos has been sent.
func (s *stream) report(pos int64) {
	if s.progress > 0 && s.progress <= pos {
		s.progress = 0
		s.enqueue(item{response: &etcdserverpb.WatchResponse{Header: header(pos), WatchId: clientv3.InvalidWatchID}})
	}
	if !s.notify {
		return
	}
	s.notify = false
	for id, w := range s.watches {
		if w.notify && !w.heard && w.next <= pos+1 {
			s.enqueue(item{response: &etcdserverpb.WatchResponse{Header: header(pos), WatchId: id}})
		}
		w.heard = false
	}
}

// catchUp sends a lagging watch its past from the database.
func (s *stream) catchUp(w *watch, pos int64) error {
	key, end := w.keys.query()
	rows, compacted, err := s.hub.history(s.ws.Context(), key, end, w.next)
	if compacted != 0 {
		s.compacted(w, compacted)
		return nil
	}
	if err != nil {
		return status.Error(codes.Unavailable, fmt.Sprintf("read past changes: %v", err))
	}
	last := pos
	items := make([]item, 0, len(rows))
	for _, row := range rows {
		last = max(last, row.KV.ModRevision)
		if row.KV.ModRevision < w.next || gap(row) || !w.keys.contains(row.KV.Key) {
			continue
		}
		if e := newEvent(row); w.wants(e) {
			items = append(items, item{watch: w, event: e})
		}
	}
	if err := s.send(items); err != nil {
		return err
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	w.begun, w.next = true, max(w.next, last+1)
	w.heard = w.heard || len(items) > 0
	return nil
}

// compacted ends a watch whose past is gone.
func (s *stream) compacted(w *watch, rev int64) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.watches[w.id] != w {
		return // The client has just given it up.
	}
	s.drop(w)
	s.enqueue(item{response: &etcdserverpb.WatchResponse{
		Header: header(h.pos), WatchId: w.id, Canceled: true,
		CompactRevision: rev, CancelReason: rpctypes.ErrCompacted.Error(),
	}})
}

// send sends items, as many events of one watch as make sense in one response.
func (s *stream) send(items []item) error {
	for len(items) > 0 {
		r, n := items[0].response, 1
		if r == nil {
			r, n = respond(items)
		}
		// The revisions of one stream never go back.
		s.sent = max(s.sent, r.Header.Revision)
		r.Header.Revision = s.sent
		if err := s.ws.Send(r); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

// respond makes a response of the first events, which are all of one watch,
// and says how many it has taken.
func respond(items []item) (r *etcdserverpb.WatchResponse, n int) {
	w := items[0].watch
	r = &etcdserverpb.WatchResponse{WatchId: w.id}
	size := 0
	for n < len(items) && items[n].watch == w && (n == 0 || size+items[n].event.size <= responseBytes) {
		e := items[n].event
		if w.prev {
			r.Events = append(r.Events, e.full)
		} else {
			r.Events = append(r.Events, e.brief)
		}
		r.Header = header(e.revision)
		size += e.size
		n++
	}
	return r, n
}
