package bridge

import (
	"context"
	"errors"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ranger is a backend that can read keys and count them at one revision, which
// kine's interface takes two calls for.
type ranger interface {
	// Range returns up to limit keys (0 for all, negative for none) from key
	// up to but without end (empty: only key; "\x00": all from key on) at a
	// revision, 0 for now, how many there are in all, and the revision of the
	// store.
	Range(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) (at int64, kvs []*server.KeyValue, count int64, err error)
}

// kvServer is etcd's KV service: ours where kine's loses writes, takes a query
// too many, or writes values into its log.
type kvServer struct {
	*server.KVServerBridge

	backend server.Backend
	hub     *hub
}

var _ etcdserverpb.KVServer = (*kvServer)(nil)

// Range implements etcdserverpb.KVServer.
func (k *kvServer) Range(ctx context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	b, ok := k.backend.(ranger)
	if !ok {
		return k.KVServerBridge.Range(ctx, r)
	}
	if err := refuseRange(r); err != nil {
		return nil, err
	}
	keys := newRange(r.GetKey(), r.GetRangeEnd())
	limit := max(r.GetLimit(), 0)
	if r.GetCountOnly() {
		limit = -1
	}
	at, kvs, count, err := b.Range(ctx, keys.key, keys.end, limit, max(r.GetRevision(), 0), r.GetKeysOnly() || r.GetCountOnly())
	if err != nil {
		return nil, err
	}
	response := &etcdserverpb.RangeResponse{Header: header(at), Count: count, More: limit > 0 && count > int64(len(kvs))}
	if len(kvs) > 0 && !r.GetCountOnly() {
		response.Kvs = make([]*mvccpb.KeyValue, len(kvs))
		for i, kv := range kvs {
			response.Kvs[i] = keyValue(kv)
		}
	}
	return response, nil
}

// refuseRange names what is asked for and cannot be had. The default order is
// that of the keys; serializable reads are answered with the newest state,
// which is one of those they allow.
func refuseRange(r *etcdserverpb.RangeRequest) error {
	byKey := r.GetSortTarget() == etcdserverpb.RangeRequest_KEY && r.GetSortOrder() != etcdserverpb.RangeRequest_DESCEND
	unsorted := r.GetSortOrder() == etcdserverpb.RangeRequest_NONE
	switch {
	case !byKey && !unsorted:
		return status.Error(codes.Unimplemented, "skiff's datastore sorts by key, ascending, and nothing else")
	case r.GetMinModRevision() != 0, r.GetMaxModRevision() != 0, r.GetMinCreateRevision() != 0, r.GetMaxCreateRevision() != 0:
		return status.Error(codes.Unimplemented, "skiff's datastore does not filter by revision")
	case len(r.GetKey()) == 0:
		return status.Error(codes.InvalidArgument, "etcdserver: key is not provided")
	}
	return nil
}

// Put implements etcdserverpb.KVServer. Kine's writes over an existing key
// only if that was the last one written, and reports success otherwise.
func (k *kvServer) Put(ctx context.Context, r *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	if r.GetIgnoreValue() || r.GetIgnoreLease() {
		return nil, status.Error(codes.Unimplemented, "skiff's datastore does not put without a value or lease")
	}
	key := string(r.GetKey())
	if err := refuseKey(key); err != nil {
		return nil, err
	}
	for ctx.Err() == nil {
		_, kv, err := k.backend.Get(ctx, key, 0, !r.GetPrevKv())
		if err != nil {
			return nil, err
		}
		var rev int64
		applied := true
		if kv == nil {
			rev, err = k.backend.Create(ctx, key, r.GetValue(), r.GetLease())
		} else {
			rev, _, applied, err = k.backend.Update(ctx, key, r.GetValue(), kv.ModRevision, r.GetLease())
		}
		if errors.Is(err, server.ErrKeyExists) || err == nil && !applied {
			continue // Somebody else was quicker.
		}
		if err != nil {
			return nil, err
		}
		response := &etcdserverpb.PutResponse{Header: header(rev)}
		if kv != nil && r.GetPrevKv() {
			response.PrevKv = keyValue(kv)
		}
		return response, nil
	}
	return nil, status.FromContextError(ctx.Err()).Err()
}

// Compact implements etcdserverpb.KVServer.
func (k *kvServer) Compact(ctx context.Context, r *etcdserverpb.CompactionRequest) (*etcdserverpb.CompactionResponse, error) {
	rev, err := k.backend.Compact(ctx, r.GetRevision())
	if err != nil {
		return nil, err
	}
	k.hub.compact(r.GetRevision())
	return &etcdserverpb.CompactionResponse{Header: header(rev)}, nil
}
