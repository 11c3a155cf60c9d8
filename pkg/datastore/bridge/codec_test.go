package bridge

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
)

// TestCodec compares ours with grpc's, both ways.
func TestCodec(t *testing.T) {
	theirs := encoding.GetCodecV2(proto.Name)
	ours := codec{other: theirs}
	value := bytes.Repeat([]byte("v"), 5000)
	tests := []struct {
		name       string
		from, into any
	}{
		{"empty", &etcdserverpb.RangeResponse{}, &etcdserverpb.RangeResponse{}},
		{"small", &etcdserverpb.RangeRequest{Key: []byte("/a"), Limit: 3}, &etcdserverpb.RangeRequest{}},
		{
			"large", &etcdserverpb.RangeResponse{Header: header(7), Count: 2, Kvs: []*mvccpb.KeyValue{{Key: []byte("/a"), Value: value}, {Key: []byte("/b")}}},
			&etcdserverpb.RangeResponse{},
		},
		{"health", &healthpb.HealthCheckRequest{Service: "s"}, &healthpb.HealthCheckRequest{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := ours.Marshal(tt.from)
			if err != nil {
				t.Fatal(err)
			}
			b, err := theirs.Marshal(tt.from)
			if err != nil {
				t.Fatal(err)
			}
			got, want := a.Materialize(), b.Materialize()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatal(diff)
			}
			// In two parts, as it may come from the network.
			half := len(got) / 2
			parts := mem.BufferSlice{mem.SliceBuffer(got[:half]), mem.SliceBuffer(got[half:])}
			if err := ours.Unmarshal(parts, tt.into); err != nil {
				t.Fatal(err)
			}
			again, err := theirs.Marshal(tt.into)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, again.Materialize()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
