package bridge

import (
	"context"
	"errors"
	"strings"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// transaction is one of those that Kubernetes makes: change one key if it is
// at a revision, and read it otherwise.
type transaction struct {
	key     string
	expect  int64 // revision of the key, 0 if it must not exist
	always  bool  // whatever the revision is
	put     *etcdserverpb.PutRequest
	remove  *etcdserverpb.DeleteRangeRequest
	first   bool // before the removal the key is read
	read    bool // if the key is not as expected
	compact bool // the API server notes how far it has compacted, expect is a version
}

var errTransaction = status.Error(codes.Unimplemented, "skiff's datastore knows the transactions that Kubernetes makes, of one key, and no others")

// Txn implements etcdserverpb.KVServer. Kine's does not look whether the
// comparison and the change are about the same key, and writes the values of
// failed changes, secrets among them, into its log.
func (k *kvServer) Txn(ctx context.Context, r *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	t, err := parse(r)
	switch {
	case err != nil:
		return nil, err
	case t.compact:
		return k.noteCompaction(ctx, t)
	case t.remove != nil:
		return k.remove(ctx, t)
	}
	return k.replace(ctx, t)
}

// parse says which transaction is asked for.
func parse(r *etcdserverpb.TxnRequest) (t transaction, err error) {
	switch then := r.GetSuccess(); {
	case len(then) == 1 && then[0].GetRequestPut() != nil:
		t.put = then[0].GetRequestPut()
		t.key = string(t.put.GetKey())
		if t.put.GetIgnoreValue() || t.put.GetIgnoreLease() || t.put.GetPrevKv() {
			return t, errTransaction
		}
	case len(then) == 1 && then[0].GetRequestDeleteRange() != nil:
		t.remove = then[0].GetRequestDeleteRange()
	case len(then) == 2 && plainRead(then[0]) && then[1].GetRequestDeleteRange() != nil && len(r.GetCompare()) == 0:
		t.remove, t.first, t.always = then[1].GetRequestDeleteRange(), true, true
		if string(then[0].GetRequestRange().GetKey()) != string(t.remove.GetKey()) {
			return t, errTransaction
		}
	default:
		return t, errTransaction
	}
	if t.remove != nil {
		t.key = string(t.remove.GetKey())
		if len(t.remove.GetRangeEnd()) > 0 {
			return t, errTransaction
		}
	}
	if !t.always {
		if err := t.compare(r.GetCompare()); err != nil {
			return t, err
		}
	}
	switch otherwise := r.GetFailure(); {
	case len(otherwise) == 1 && plainRead(otherwise[0]) && string(otherwise[0].GetRequestRange().GetKey()) == t.key:
		t.read = true
	case len(otherwise) > 0:
		return t, errTransaction
	}
	if t.compact {
		return t, nil
	}
	return t, refuseKey(t.key)
}

// compare reads the condition.
func (t *transaction) compare(all []*etcdserverpb.Compare) error {
	if len(all) != 1 || all[0].GetResult() != etcdserverpb.Compare_EQUAL || len(all[0].GetRangeEnd()) > 0 || string(all[0].GetKey()) != t.key {
		return errTransaction
	}
	switch all[0].GetTarget() {
	case etcdserverpb.Compare_MOD:
		t.expect = all[0].GetModRevision()
		return nil
	case etcdserverpb.Compare_VERSION:
		if t.key == compactKey && t.put != nil {
			t.compact, t.expect = true, all[0].GetVersion()
			return nil
		}
	}
	return errTransaction
}

// plainRead reports whether an operation reads one key as it is.
func plainRead(o *etcdserverpb.RequestOp) bool {
	r := o.GetRequestRange()
	return r != nil && len(r.GetRangeEnd()) == 0 && r.GetRevision() == 0 && !r.GetKeysOnly() && !r.GetCountOnly() && refuseRange(r) == nil
}

// refuseKey names what cannot be a key of a client's: rows of these names mean
// something else in kine's table.
func refuseKey(key string) error {
	switch {
	case key == "":
		return status.Error(codes.InvalidArgument, "etcdserver: key is not provided")
	case key == compactKey, key == compactRow, strings.HasPrefix(key, gapPrefix):
		return status.Errorf(codes.InvalidArgument, "%q is reserved in skiff's datastore: use another key", key)
	}
	return nil
}

// replace writes a key that is at the expected revision.
func (k *kvServer) replace(ctx context.Context, t transaction) (*etcdserverpb.TxnResponse, error) {
	value, lease := t.put.GetValue(), t.put.GetLease()
	if t.expect > 0 {
		rev, kv, ok, err := k.backend.Update(ctx, t.key, value, t.expect, lease)
		if err != nil {
			return nil, err
		}
		if !ok {
			return t.refused(rev, kv), nil
		}
		return written(rev), nil
	}
	for ctx.Err() == nil {
		if t.expect == 0 {
			rev, err := k.backend.Create(ctx, t.key, value, lease)
			switch {
			case err == nil:
				return written(rev), nil
			case !errors.Is(err, server.ErrKeyExists):
				return nil, err
			case !t.read:
				return t.refused(rev, nil), nil
			}
		}
		rev, kv, err := k.backend.Get(ctx, t.key, 0, false)
		if err != nil {
			return nil, err
		}
		if kv != nil || t.expect < 0 {
			return t.refused(rev, kv), nil
		}
		// It has been removed since it was found.
	}
	return nil, ctx.Err()
}

// remove removes a key that is at the expected revision.
func (k *kvServer) remove(ctx context.Context, t transaction) (*etcdserverpb.TxnResponse, error) {
	if t.expect > 0 || t.always {
		rev, kv, ok, err := k.backend.Delete(ctx, t.key, t.expect)
		if err != nil {
			return nil, err
		}
		if !ok && !t.always {
			return t.refused(rev, kv), nil
		}
		return t.removed(rev, kv), nil
	}
	// What does not exist is not removed.
	rev, kv, err := k.backend.Get(ctx, t.key, 0, false)
	if err != nil {
		return nil, err
	}
	if kv != nil || t.expect < 0 {
		return t.refused(rev, kv), nil
	}
	return t.removed(rev, nil), nil
}

// noteCompaction writes how far the API server has compacted, under a name of
// its own: kine has a row of that name, and keeps no versions of keys.
func (k *kvServer) noteCompaction(ctx context.Context, t transaction) (*etcdserverpb.TxnResponse, error) {
	for ctx.Err() == nil {
		rev, kv, err := k.backend.Get(ctx, compactRow, 0, false)
		if err != nil {
			return nil, err
		}
		now := &mvccpb.KeyValue{Key: []byte(compactKey)}
		if kv != nil {
			now = keyValue(kv)
		}
		if now.Version != t.expect {
			// The API server relies on there being a value.
			return answer(rev, false, readAnswer(rev, now)), nil
		}
		value, done := server.EncodeVersion(now.Version+1, t.put.GetValue()), true
		if kv == nil {
			rev, err = k.backend.Create(ctx, compactRow, value, 0)
			if errors.Is(err, server.ErrKeyExists) {
				done, err = false, nil
			}
		} else {
			rev, _, done, err = k.backend.Update(ctx, compactRow, value, kv.ModRevision, 0)
		}
		if err != nil {
			return nil, err
		}
		if done {
			return written(rev), nil
		}
		// Another server was quicker: look what it has written.
	}
	return nil, ctx.Err()
}

func answer(rev int64, succeeded bool, responses ...*etcdserverpb.ResponseOp) *etcdserverpb.TxnResponse {
	return &etcdserverpb.TxnResponse{Header: header(rev), Succeeded: succeeded, Responses: responses}
}

func written(rev int64) *etcdserverpb.TxnResponse {
	return answer(rev, true, &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponsePut{
		ResponsePut: &etcdserverpb.PutResponse{Header: header(rev)},
	}})
}

// refused answers with the key as it is, if that was asked for.
func (t transaction) refused(rev int64, kv *server.KeyValue) *etcdserverpb.TxnResponse {
	if !t.read {
		return answer(rev, false)
	}
	return answer(rev, false, readAnswer(rev, values(kv)...))
}

func (t transaction) removed(rev int64, kv *server.KeyValue) *etcdserverpb.TxnResponse {
	response := &etcdserverpb.DeleteRangeResponse{Header: header(rev), Deleted: int64(len(values(kv)))}
	if t.remove.GetPrevKv() {
		response.PrevKvs = values(kv)
	}
	removal := &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: response}}
	if t.first {
		return answer(rev, true, readAnswer(rev, values(kv)...), removal)
	}
	return answer(rev, true, removal)
}

func values(kv *server.KeyValue) []*mvccpb.KeyValue {
	if kv == nil {
		return nil
	}
	return []*mvccpb.KeyValue{keyValue(kv)}
}

func readAnswer(rev int64, kvs ...*mvccpb.KeyValue) *etcdserverpb.ResponseOp {
	return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseRange{
		ResponseRange: &etcdserverpb.RangeResponse{Header: header(rev), Kvs: kvs, Count: int64(len(kvs))},
	}}
}
