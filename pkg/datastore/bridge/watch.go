package bridge

import (
	"errors"
	"slices"
	"sync"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"skiff/internal/signal"
)

const (
	// queueEvents and queueBytes bound what waits for one client to read it.
	queueEvents = 4096
	queueBytes  = 4 << 20
	// responseBytes is about how much goes into one response.
	responseBytes = 1 << 20
)

// Why a watch is refused or ended, in etcd's words.
var (
	errDuplicateID = errors.New("mvcc: duplicate watch ID provided on the WatchStream")
	errEmptyRange  = errors.New("mvcc: watcher range is empty")
)

// watchServer is etcd's Watch service over a hub.
//
// Source: go.etcd.io/etcd/server/v3, etcdserver/api/v3rpc/watch.go, for what
// clients may rely on.
type watchServer struct {
	hub *hub
	// stopped ends all streams when it is closed; running counts what they
	// have started.
	stopped <-chan struct{}
	running sync.WaitGroup
}

// watch is one watch of one stream. hub.mu guards what changes.
type watch struct {
	stream *stream
	id     int64
	keys   keyRange
	prev   bool // the client wants previous values
	notify bool // the client wants to hear of progress without events
	puts   bool // it wants to hear of writes
	dels   bool // and of removals

	next  int64 // events before this revision are not for the client any more
	begun bool  // what it begins with was there
	heard bool  // something has been sent since the last progress notification
}

// stream is one client's connection for watches. hub.mu guards its fields but
// for ws, hub and wake.
type stream struct {
	ws   etcdserverpb.Watch_WatchServer
	hub  *hub
	wake signal.Signal // sent if there may be something to do

	watches  map[int64]*watch
	lagging  []*watch
	lastID   int64
	queue    []item
	queued   int   // bytes of events in queue
	progress int64 // the revision up to which progress has been asked for; 0 if it has not
	notify   bool  // a progress notification is due
	closed   bool
	sent     int64 // revision of the last header; used by the sender only
}

// item is a response, or an event for one watch.
type item struct {
	response *etcdserverpb.WatchResponse
	watch    *watch
	event    *event
}

// Watch implements etcdserverpb.WatchServer.
func (w *watchServer) Watch(ws etcdserverpb.Watch_WatchServer) error {
	s := &stream{ws: ws, hub: w.hub, wake: signal.New(), watches: map[int64]*watch{}}
	w.hub.add(s)
	defer w.hub.remove(s)
	// Both end at the latest when this function has returned, which ends the
	// stream's context.
	done := make(chan error, 2)
	w.running.Go(func() { done <- s.receive() })
	w.running.Go(func() { done <- s.deliver() })
	select {
	case err := <-done:
		return err
	case <-w.stopped:
		return status.Error(codes.Unavailable, "etcdserver: server stopped")
	}
}

func (h *hub) add(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.streams[s] = struct{}{}
}

func (h *hub) remove(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, s)
	for _, w := range s.watches {
		delete(h.live, w)
	}
	s.closed, s.lagging = true, nil
}

// receive carries out what the client asks for, one after the other.
func (s *stream) receive() error {
	for {
		r, err := s.ws.Recv()
		if err != nil {
			return err
		}
		switch r := r.GetRequestUnion().(type) {
		case *etcdserverpb.WatchRequest_CreateRequest:
			err = s.create(r.CreateRequest)
		case *etcdserverpb.WatchRequest_CancelRequest:
			s.cancel(r.CancelRequest.GetWatchId())
		case *etcdserverpb.WatchRequest_ProgressRequest:
			err = s.requestProgress()
		}
		if err != nil {
			return status.Error(codes.Unavailable, err.Error())
		}
	}
}

// create begins a watch. Its past is read by deliver, after the response.
func (s *stream) create(r *etcdserverpb.WatchCreateRequest) error {
	w := &watch{
		stream: s, id: r.GetWatchId(), keys: newRange(r.GetKey(), r.GetRangeEnd()), next: r.GetStartRevision(),
		prev: r.GetPrevKv(), notify: r.GetProgressNotify(),
	}
	w.puts = !slices.Contains(r.GetFilters(), etcdserverpb.WatchCreateRequest_NOPUT)
	w.dels = !slices.Contains(r.GetFilters(), etcdserverpb.WatchCreateRequest_NODELETE)

	var rev int64
	if w.next == 0 { // From now on, which only the database knows.
		var err error
		if rev, err = s.hub.current(s.ws.Context()); err != nil {
			return err
		}
	}
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.closed {
		return nil
	}
	rev = max(rev, h.pos)
	if w.next == 0 {
		w.begun, w.next = true, rev+1
	}
	created := &etcdserverpb.WatchResponse{Header: header(rev), WatchId: w.id, Created: true}
	if reason := s.refuse(w); reason != nil {
		created.WatchId, created.Canceled, created.CancelReason = clientv3.InvalidWatchID, true, reason.Error()
		s.enqueue(item{response: created})
		return nil
	}
	for w.id == clientv3.AutoWatchID || s.watches[w.id] != nil {
		s.lastID++
		w.id = s.lastID
	}
	created.WatchId = w.id
	s.watches[w.id] = w
	s.lagging = append(s.lagging, w)
	s.enqueue(item{response: created})
	return nil
}

// refuse says why a watch cannot be.
func (s *stream) refuse(w *watch) error {
	switch {
	case w.id != clientv3.AutoWatchID && s.watches[w.id] != nil:
		return errDuplicateID
	case w.keys.empty():
		return errEmptyRange
	case w.next < 0:
		return rpctypes.ErrCompacted
	}
	return nil
}

// cancel ends a watch because the client wants it to.
func (s *stream) cancel(id int64) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := s.watches[id]; w != nil {
		s.drop(w)
		s.enqueue(item{response: &etcdserverpb.WatchResponse{Header: header(h.pos), WatchId: id, Canceled: true}})
	}
}

// drop forgets a watch.
func (s *stream) drop(w *watch) {
	delete(s.watches, w.id)
	delete(s.hub.live, w)
	s.lagging = slices.DeleteFunc(s.lagging, func(l *watch) bool { return l == w })
}

// requestProgress promises a report once everything has been sent that is
// committed now.
func (s *stream) requestProgress() error {
	rev, err := s.hub.current(s.ws.Context())
	if err != nil {
		return err
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.progress = max(s.progress, rev)
	s.wake.Send()
	return nil
}

// enqueue, push and lag need hub.mu.

func (s *stream) enqueue(i item) {
	s.queue = append(s.queue, i)
	s.wake.Send()
}

// push hands a live watch its next event. If the client has not read what is
// there already, the watch stops being live and continues later.
func (s *stream) push(w *watch, e *event) {
	if e.revision < w.next || !w.wants(e) {
		return
	}
	if len(s.queue) >= queueEvents || s.queued > queueBytes {
		w.lag(e.revision)
		return
	}
	s.append(w, e)
}

func (s *stream) append(w *watch, e *event) {
	s.queued += e.size
	w.heard = true
	s.enqueue(item{watch: w, event: e})
}

func (w *watch) wants(e *event) bool {
	if e.full.Type == mvccpb.DELETE {
		return w.dels
	}
	return w.puts
}

func (w *watch) lag(next int64) {
	w.next = max(w.next, next)
	delete(w.stream.hub.live, w)
	w.stream.lagging = append(w.stream.lagging, w)
	w.stream.wake.Send()
}

func header(rev int64) *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{Revision: rev}
}
