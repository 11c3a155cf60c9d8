package bridge

import (
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestRefusedTransactions has those that look like one of Kubernetes', but
// would do something else than they say.
func TestRefusedTransactions(t *testing.T) {
	mod := func(key string, rev int64) []*etcdserverpb.Compare {
		c := etcdserverpb.Compare(clientv3.Compare(clientv3.ModRevision(key), "=", rev))
		return []*etcdserverpb.Compare{&c}
	}
	put := func(key string) *etcdserverpb.RequestOp {
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{Key: []byte(key)}}}
	}
	remove := func(key, end string) *etcdserverpb.RequestOp {
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}}}
	}
	read := func(key string) *etcdserverpb.RequestOp {
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: &etcdserverpb.RangeRequest{Key: []byte(key)}}}
	}
	ops := func(o ...*etcdserverpb.RequestOp) []*etcdserverpb.RequestOp { return o }
	tests := []struct {
		name string
		txn  *etcdserverpb.TxnRequest
		want codes.Code
	}{
		{"create", &etcdserverpb.TxnRequest{Compare: mod("a", 0), Success: ops(put("a"))}, codes.OK},
		{"update", &etcdserverpb.TxnRequest{Compare: mod("a", 7), Success: ops(put("a")), Failure: ops(read("a"))}, codes.OK},
		{"delete", &etcdserverpb.TxnRequest{Compare: mod("a", 7), Success: ops(remove("a", "")), Failure: ops(read("a"))}, codes.OK},
		{"unconditional delete", &etcdserverpb.TxnRequest{Success: ops(read("a"), remove("a", ""))}, codes.OK},
		{"another key is put", &etcdserverpb.TxnRequest{Compare: mod("a", 7), Success: ops(put("b")), Failure: ops(read("a"))}, codes.Unimplemented},
		{"another key is deleted", &etcdserverpb.TxnRequest{Compare: mod("a", 7), Success: ops(remove("b", ""))}, codes.Unimplemented},
		{"another key is read", &etcdserverpb.TxnRequest{Compare: mod("a", 7), Success: ops(put("a")), Failure: ops(read("b"))}, codes.Unimplemented},
		{"a range is deleted", &etcdserverpb.TxnRequest{Compare: mod("a", 7), Success: ops(remove("a", "b")), Failure: ops(read("a"))}, codes.Unimplemented},
		{"another key is deleted than read", &etcdserverpb.TxnRequest{Success: ops(read("b"), remove("a", ""))}, codes.Unimplemented},
		{"two puts", &etcdserverpb.TxnRequest{Compare: mod("a", 7), Success: ops(put("a"), put("a"))}, codes.Unimplemented},
		{"nothing", &etcdserverpb.TxnRequest{}, codes.Unimplemented},
		{"no key", &etcdserverpb.TxnRequest{Compare: mod("", 0), Success: ops(put(""))}, codes.InvalidArgument},
		{"a name of kine's", &etcdserverpb.TxnRequest{Compare: mod("gap-7", 0), Success: ops(put("gap-7"))}, codes.InvalidArgument},
		{"kine's compaction", &etcdserverpb.TxnRequest{Compare: mod(compactKey, 0), Success: ops(put(compactKey))}, codes.InvalidArgument},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := parse(tt.txn); status.Code(err) != tt.want {
				t.Errorf("parse = %v, want %s", err, tt.want)
			}
		})
	}
}
