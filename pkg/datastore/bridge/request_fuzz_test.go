package bridge_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"skiff/pkg/datastore"
)

// answerWithin is how long a request may take; more is a hang.
const answerWithin = 10 * time.Second

// FuzzRequests sends arbitrary requests to a datastore. Whatever is sent is
// answered, with what etcd would answer or with a status that says what is
// wrong with it; afterwards lists and watches agree on what is stored.
func FuzzRequests(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		seed := make([]byte, 100+rnd.IntN(300))
		for n := range seed {
			seed[n] = byte(rnd.Uint32())
		}
		f.Add(seed)
	}
	conn := serve(f)
	kv, watch := etcdserverpb.NewKVClient(conn), etcdserverpb.NewWatchClient(conn)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 2000 {
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), answerWithin)
		defer cancel()
		s := &session{t: t, ctx: ctx, kv: kv, watch: watch, in: input{data: data}}
		s.begin()
		for n := 0; n < 12 && !s.in.empty(); n++ {
			s.step()
		}
		s.end()
	})
}

// serve runs a SQLite datastore for all inputs.
func serve(f *testing.F) *grpc.ClientConn {
	f.Helper()
	dir, err := os.MkdirTemp("", "fuzz")
	if err != nil {
		f.Fatal(err)
	}
	ds, err := datastore.Open(datastore.Options{Dir: dir, Socket: filepath.Join(dir, "s"), Durability: "relaxed", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ds.Run(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			f.Error(err)
		}
	})
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ds.Ready(f.Context()) != nil {
		select {
		case err := <-done:
			done <- nil
			f.Fatalf("the datastore stopped: %v", err)
		case <-tick.C:
		}
	}
	conn, err := grpc.NewClient(ds.Endpoint().Servers[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = conn.Close() })
	return conn
}

// stored is a key's version in the model of etcd.
type stored struct {
	Value       string
	Mod, Create int64
	Lease       int64
}

// session is one input.
type session struct {
	t     *testing.T
	ctx   context.Context //nolint:containedctx // It is the input's, as the session.
	kv    etcdserverpb.KVClient
	watch etcdserverpb.WatchClient
	in    input

	first    int64 // revision at which the model begins
	revision int64
	compact  int64 // revisions before cannot be read, as far as is known
	now      map[string]stored
	past     map[int64]map[string]stored
	events   etcdserverpb.Watch_WatchClient
	others   etcdserverpb.Watch_WatchClient
}

// begin removes what the last input has left, and starts to watch.
func (s *session) begin() {
	for _, kv := range s.everything() {
		r, err := s.kv.Txn(s.ctx, &etcdserverpb.TxnRequest{
			Compare: []*etcdserverpb.Compare{{Target: etcdserverpb.Compare_MOD, Key: kv.Key, TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: kv.ModRevision}}},
			Success: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{Key: kv.Key}}}},
		})
		if err != nil || !r.Succeeded {
			s.t.Fatalf("remove %q: %v, %v", kv.Key, r, err)
		}
	}
	s.everything()
	s.first, s.now = s.revision, map[string]stored{}
	s.past = map[int64]map[string]stored{s.revision: {}}
	s.events = s.open(&etcdserverpb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: s.revision + 1, PrevKv: true})
}

// everything lists all keys and notes the revision.
func (s *session) everything() []*mvccpb.KeyValue {
	r, err := s.kv.Range(s.ctx, &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.revision = r.Header.Revision
	return r.Kvs
}

func (s *session) open(r *etcdserverpb.WatchCreateRequest) etcdserverpb.Watch_WatchClient {
	w, err := s.watch.Watch(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	if r == nil {
		return w
	}
	if err := w.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: r}}); err != nil {
		s.t.Fatal(err)
	}
	if got, err := w.Recv(); err != nil || !got.Created || got.Canceled {
		s.t.Fatalf("watch: %v, %v", got, err)
	}
	return w
}

// answered checks an error, and reports whether there was none.
func (s *session) answered(request any, err error) bool {
	switch status.Code(err) {
	case codes.OK:
		return true
	case codes.InvalidArgument, codes.Unimplemented, codes.OutOfRange, codes.ResourceExhausted:
		return false
	}
	s.t.Fatalf("%T %v was answered with %v", request, request, err)
	return false
}

// step makes one request.
func (s *session) step() {
	switch s.in.choose(8) {
	case 0, 1, 2:
		s.txn(s.in.txn(s, 0))
	case 3:
		s.put(s.in.put())
	case 4, 5:
		s.list(s.in.list(s))
	case 6:
		s.watchAnything()
	default:
		s.rare()
	}
}

// rare makes the requests that change little, and raw bytes.
func (s *session) rare() {
	switch s.in.choose(4) {
	case 0:
		r := &etcdserverpb.CompactionRequest{Revision: s.in.revision(s), Physical: s.in.choose(2) == 0}
		_, err := s.kv.Compact(s.ctx, r)
		if ok := s.answered(r, err); ok && (r.Revision > s.revision || r.Revision < s.compact) {
			s.t.Fatalf("compacted at %d, which is not between %d and %d", r.Revision, s.compact, s.revision)
		} else if ok {
			s.compact = r.Revision
		}
	case 1:
		r := &etcdserverpb.DeleteRangeRequest{Key: s.in.key(), RangeEnd: s.in.rangeEnd(), PrevKv: s.in.choose(2) == 0}
		if _, err := s.kv.DeleteRange(s.ctx, r); s.answered(r, err) {
			s.removeRange(string(r.Key), string(r.RangeEnd), s.revision+1)
		}
	case 2:
		r := &etcdserverpb.TxnRequest{}
		if r.Unmarshal(s.in.bytes(200)) == nil {
			s.txn(r)
		}
	default:
		r := &etcdserverpb.RangeRequest{}
		if r.Unmarshal(s.in.bytes(100)) == nil {
			s.list(r)
		}
	}
}

// advance notes the model's state after a request.
func (s *session) advance(to int64) {
	if to < s.revision || to > s.revision+1 {
		s.t.Fatalf("a request was answered at revision %d, after %d", to, s.revision)
	}
	s.revision = to
	s.past[to] = maps.Clone(s.now)
}

func (s *session) write(key string, value []byte, lease, revision int64) {
	v := stored{string(value), revision, revision, lease}
	if old, ok := s.now[key]; ok {
		v.Create = old.Create
	}
	s.now[key] = v
}

func (s *session) removeRange(key, end string, _ int64) {
	for k := range s.now {
		if inRange(k, key, end) {
			delete(s.now, k)
		}
	}
	s.everything()
	s.past[s.revision] = maps.Clone(s.now)
}

func inRange(k, key, end string) bool {
	switch end {
	case "":
		return k == key
	case "\x00":
		return k >= key
	}
	return k >= key && k < end
}

func (s *session) put(r *etcdserverpb.PutRequest) {
	got, err := s.kv.Put(s.ctx, r)
	if !s.answered(r, err) {
		return
	}
	old, existed := s.now[string(r.Key)]
	if r.PrevKv && existed != (got.PrevKv != nil) || got.PrevKv != nil && string(got.PrevKv.Value) != old.Value {
		s.t.Fatalf("%v replaced %v, want %+v", r, got.PrevKv, old)
	}
	s.write(string(r.Key), r.Value, r.Lease, got.Header.Revision)
	s.advance(got.Header.Revision)
}

// txn carries a transaction out in the model, too, and compares.
func (s *session) txn(r *etcdserverpb.TxnRequest) {
	got, err := s.kv.Txn(s.ctx, r)
	if !s.answered(r, err) {
		return
	}
	want, ops := true, r.Success
	for _, c := range r.Compare {
		v := s.now[string(c.Key)]
		if c.Target != etcdserverpb.Compare_MOD || c.Result != etcdserverpb.Compare_EQUAL || len(c.RangeEnd) > 0 {
			s.t.Fatalf("%v was carried out, which the model cannot", r)
		}
		want = want && v.Mod == c.GetModRevision()
	}
	if !want {
		ops = r.Failure
	}
	if got.Succeeded != want {
		s.t.Fatalf("%v: succeeded = %v, want %v; %+v", r, got.Succeeded, want, s.now)
	}
	if len(got.Responses) != len(ops) {
		s.t.Fatalf("%v: %d answers, want %d", r, len(got.Responses), len(ops))
	}
	for i, op := range ops {
		s.operation(op, got.Responses[i], got.Header.Revision)
	}
	s.advance(got.Header.Revision)
}

func (s *session) operation(op *etcdserverpb.RequestOp, got *etcdserverpb.ResponseOp, revision int64) {
	switch {
	case op.GetRequestPut() != nil && got.GetResponsePut() != nil:
		p := op.GetRequestPut()
		s.write(string(p.Key), p.Value, p.Lease, revision)
	case op.GetRequestDeleteRange() != nil && got.GetResponseDeleteRange() != nil:
		d := op.GetRequestDeleteRange()
		n := int64(0)
		for k := range s.now {
			if inRange(k, string(d.Key), string(d.RangeEnd)) {
				delete(s.now, k)
				n++
			}
		}
		if got.GetResponseDeleteRange().Deleted != n {
			s.t.Fatalf("%v removed %d keys, want %d", d, got.GetResponseDeleteRange().Deleted, n)
		}
	case op.GetRequestRange() != nil && got.GetResponseRange() != nil:
		s.compare(op.GetRequestRange(), got.GetResponseRange(), s.now)
	default:
		s.t.Fatalf("%v was answered with %v", op, got)
	}
}

func (s *session) list(r *etcdserverpb.RangeRequest) {
	got, err := s.kv.Range(s.ctx, r)
	if !s.answered(r, err) {
		return
	}
	if got.Header.Revision != s.revision {
		s.t.Fatalf("%v: answered at %d, want %d", r, got.Header.Revision, s.revision)
	}
	state := s.now
	if r.Revision > 0 {
		if r.Revision < s.compact || r.Revision > s.revision {
			s.t.Fatalf("%v was answered; the store is at %d and compacted at %d", r, s.revision, s.compact)
		}
		if r.Revision < s.first {
			return // From before the model.
		}
		if state = s.past[r.Revision]; state == nil {
			s.t.Fatalf("the model has no revision %d", r.Revision)
		}
	}
	s.compare(r, got, state)
}

// compare compares a list with a state of the model.
func (s *session) compare(r *etcdserverpb.RangeRequest, got *etcdserverpb.RangeResponse, state map[string]stored) {
	var keys []string
	for k := range state {
		if inRange(k, string(r.Key), string(r.RangeEnd)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	if got.Count != int64(len(keys)) {
		s.t.Fatalf("%v: count %d, want %d", r, got.Count, len(keys))
	}
	if r.Limit > 0 && int64(len(keys)) > r.Limit {
		keys = keys[:r.Limit]
	}
	if r.CountOnly {
		keys = nil
	} else if got.More != (int64(len(keys)) < got.Count) {
		s.t.Fatalf("%v: more = %v with %d of %d keys", r, got.More, len(keys), got.Count)
	}
	var want, have []string
	for _, k := range keys {
		v := state[k]
		if r.KeysOnly {
			v.Value = ""
		}
		want = append(want, fmt.Sprintf("%q %+v", k, v))
	}
	for _, kv := range got.Kvs {
		have = append(have, fmt.Sprintf("%q %+v", kv.Key, storedOf(kv)))
	}
	if diff := cmp.Diff(want, have); diff != "" {
		s.t.Fatalf("%v (-want +got):\n%s", r, diff)
	}
}

func storedOf(kv *mvccpb.KeyValue) stored {
	return stored{string(kv.Value), kv.ModRevision, kv.CreateRevision, kv.Lease}
}

// watchAnything begins a watch of its own choice. It is answered at once.
func (s *session) watchAnything() {
	if s.others == nil {
		s.others = s.open(nil)
	}
	create := s.in.watch(s)
	r := &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: create}}
	switch s.in.choose(8) {
	case 0:
		if r.Unmarshal(s.in.bytes(60)) != nil || r.GetCreateRequest() == nil {
			return
		}
	case 1:
		r.RequestUnion = &etcdserverpb.WatchRequest_CancelRequest{CancelRequest: &etcdserverpb.WatchCancelRequest{WatchId: int64(s.in.choose(5)) - 1}}
	}
	if err := s.others.Send(r); err != nil {
		s.t.Fatal(err)
	}
	for r.GetCreateRequest() != nil {
		got, err := s.others.Recv()
		if !s.answered(r, err) {
			s.others = nil
			return
		}
		if got.Created {
			return
		}
	}
}

// end compares lists, single reads and events with the model.
func (s *session) end() {
	at := s.revision
	s.list(&etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	for k := range s.now {
		s.list(&etcdserverpb.RangeRequest{Key: []byte(k)})
	}
	if err := s.events.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{ProgressRequest: &etcdserverpb.WatchProgressRequest{}}}); err != nil {
		s.t.Fatal(err)
	}
	state := map[string]stored{}
	for last := s.first; ; {
		r, err := s.events.Recv()
		if err != nil || r.Canceled {
			s.t.Fatalf("watch: %v, %v", r, err)
		}
		for _, e := range r.Events {
			last++
			if e.Kv.ModRevision != last {
				s.t.Fatalf("event %v comes after revision %d", e, last-1)
			}
			if e.PrevKv != nil && storedOf(e.PrevKv) != state[string(e.Kv.Key)] {
				s.t.Fatalf("event %v: the previous version was %+v", e, state[string(e.Kv.Key)])
			}
			delete(state, string(e.Kv.Key))
			if e.Type == mvccpb.PUT {
				state[string(e.Kv.Key)] = storedOf(e.Kv)
			}
		}
		if len(r.Events) == 0 && r.Header.Revision >= at {
			break
		}
	}
	if diff := cmp.Diff(s.now, state); diff != "" {
		s.t.Fatalf("what the events make (-model +events):\n%s", diff)
	}
}

// input hands out the fuzzer's bytes.
type input struct{ data []byte }

func (in *input) empty() bool { return len(in.data) == 0 }

func (in *input) byte() byte {
	if in.empty() {
		return 0
	}
	b := in.data[0]
	in.data = in.data[1:]
	return b
}

func (in *input) choose(n int) int { return int(in.byte()) % n }

func (in *input) bytes(most int) []byte {
	n := min(in.choose(most), len(in.data))
	b := in.data[:n:n]
	in.data = in.data[n:]
	return b
}

func (in *input) key() []byte {
	names := []string{
		"a", "b", "ab", "a\x00", "\x00", "\xff", "\xff\xfe", "/registry/pods/a/b", "/registry/leases/a", "/registry/events/a", "%", "_",
		"", "gap-1", "gap-", "compact_rev_key", "compact_rev_key_apiserver", "/registry/health",
	}
	if n := in.choose(len(names) + 4); n < len(names) {
		return []byte(names[n])
	}
	if in.choose(20) == 0 {
		return make([]byte, 70_000)
	}
	return in.bytes(30)
}

func (in *input) rangeEnd() []byte {
	switch in.choose(4) {
	case 0:
		return []byte{0}
	case 1:
		return in.key()
	}
	return nil
}

func (in *input) number() int64 {
	return []int64{0, 1, 2, 3, 10, -1, math.MaxInt64, math.MinInt64, math.MaxInt32}[in.choose(9)]
}

// revision is one that makes sense, mostly.
func (in *input) revision(s *session) int64 {
	switch in.choose(6) {
	case 0:
		return in.number()
	case 1:
		return s.revision - int64(in.choose(12))
	case 2:
		return s.revision + 1
	}
	return 0
}

func (in *input) list(s *session) *etcdserverpb.RangeRequest {
	r := &etcdserverpb.RangeRequest{Key: in.key(), RangeEnd: in.rangeEnd(), Revision: in.revision(s)}
	flags := in.byte()
	r.KeysOnly, r.CountOnly, r.Serializable = flags&3 == 1, flags&12 == 4, flags&16 != 0
	if flags&32 != 0 {
		r.Limit = in.number()
	}
	if flags&64 != 0 {
		r.SortOrder, r.SortTarget = etcdserverpb.RangeRequest_SortOrder(in.choose(4)), etcdserverpb.RangeRequest_SortTarget(in.choose(6))
	}
	if flags&128 != 0 {
		r.MinModRevision, r.MaxModRevision, r.MinCreateRevision, r.MaxCreateRevision = in.number(), in.number(), in.number(), in.number()
	}
	return r
}

func (in *input) put() *etcdserverpb.PutRequest {
	r := &etcdserverpb.PutRequest{Key: in.key(), Value: in.bytes(40)}
	flags := in.byte()
	if flags&7 == 7 {
		r.PrevKv, r.IgnoreLease, r.IgnoreValue = flags&8 != 0, flags&16 != 0, flags&32 != 0
	}
	if flags&7 == 6 {
		r.Lease = []int64{1 << 30, math.MaxInt64}[in.choose(2)] // Nothing ends while it is looked at.
	}
	return r
}

func (in *input) operation(s *session, depth int, key []byte) *etcdserverpb.RequestOp {
	if in.choose(8) == 0 {
		key = in.key()
	}
	switch in.choose(8) {
	case 0, 1, 2:
		p := in.put()
		p.Key = key
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: p}}
	case 3, 4:
		d := &etcdserverpb.DeleteRangeRequest{Key: key}
		if in.choose(6) == 0 {
			d.RangeEnd, d.PrevKv = in.rangeEnd(), true
		}
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: d}}
	case 5, 6:
		r := &etcdserverpb.RangeRequest{Key: key}
		if in.choose(6) == 0 {
			r = in.list(s)
		}
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: r}}
	}
	if depth > 2 {
		return &etcdserverpb.RequestOp{}
	}
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: in.txn(s, depth+1)}}
}

// txn is often nearly one of those that Kubernetes makes.
func (in *input) txn(s *session, depth int) *etcdserverpb.TxnRequest {
	key := in.key()
	r := &etcdserverpb.TxnRequest{}
	for range []int{1, 1, 1, 1, 0, 2}[in.choose(6)] {
		c := &etcdserverpb.Compare{Key: key, Target: etcdserverpb.Compare_MOD}
		switch in.choose(4) {
		case 0:
			c.TargetUnion = &etcdserverpb.Compare_ModRevision{ModRevision: in.revision(s)}
		default:
			c.TargetUnion = &etcdserverpb.Compare_ModRevision{ModRevision: s.now[string(key)].Mod}
		}
		switch in.choose(16) {
		case 0:
			c.Target = etcdserverpb.Compare_CompareTarget(in.choose(6))
		case 1:
			c.Result = etcdserverpb.Compare_CompareResult(in.choose(5))
		case 2:
			c.RangeEnd = in.rangeEnd()
		case 3:
			c.Key = in.key()
		case 4:
			c.Target, c.TargetUnion = etcdserverpb.Compare_VALUE, &etcdserverpb.Compare_Value{Value: in.bytes(20)}
		case 5:
			c.TargetUnion = nil
		}
		r.Compare = append(r.Compare, c)
	}
	for range []int{1, 1, 1, 1, 0, 2}[in.choose(6)] {
		r.Success = append(r.Success, in.operation(s, depth, key))
	}
	for range []int{1, 1, 0, 0, 0, 2}[in.choose(6)] {
		if in.choose(4) > 0 {
			r.Failure = append(r.Failure, &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: &etcdserverpb.RangeRequest{Key: key}}})
			continue
		}
		r.Failure = append(r.Failure, in.operation(s, depth, key))
	}
	return r
}

func (in *input) watch(s *session) *etcdserverpb.WatchCreateRequest {
	r := &etcdserverpb.WatchCreateRequest{Key: in.key(), RangeEnd: in.rangeEnd(), StartRevision: in.revision(s)}
	flags := in.byte()
	r.PrevKv, r.ProgressNotify, r.Fragment = flags&1 != 0, flags&2 != 0, flags&4 != 0
	if flags&8 != 0 {
		r.WatchId = in.number()
	}
	if flags&16 != 0 {
		r.Filters = append(r.Filters, etcdserverpb.WatchCreateRequest_FilterType(in.choose(4)), etcdserverpb.WatchCreateRequest_FilterType(in.choose(2)))
	}
	return r
}
