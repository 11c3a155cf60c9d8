package bridge

import (
	"context"
	"errors"
	"testing"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// scripted is a backend that has one key, or none, and whose writes end as
// told, one after the other.
type scripted struct {
	server.Backend

	t    *testing.T
	kv   *server.KeyValue
	ends []ending
}

type ending struct {
	applied bool
	err     error
}

func (b *scripted) next() ending {
	if len(b.ends) == 0 {
		b.t.Fatal("called once too often")
	}
	e := b.ends[0]
	b.ends = b.ends[1:]
	return e
}

func (b *scripted) Get(context.Context, string, int64, bool) (int64, *server.KeyValue, error) {
	return 7, b.kv, nil
}

func (b *scripted) Create(context.Context, string, []byte, int64) (int64, error) {
	return 8, b.next().err
}

func (b *scripted) Update(context.Context, string, []byte, int64, int64) (int64, *server.KeyValue, bool, error) {
	e := b.next()
	return 8, b.kv, e.applied, e.err
}

// TestPut has writes that others are quicker than, which are tried again, and
// writes that fail, which are not: a full disk must not become a busy loop.
func TestPut(t *testing.T) {
	full := errors.New("the disk is full")
	key := &server.KeyValue{Key: "/a", ModRevision: 5}
	tests := []struct {
		name string
		kv   *server.KeyValue
		ends []ending
		want error
	}{
		{"new key", nil, []ending{{}}, nil},
		{"new key, others were quicker", nil, []ending{{err: server.ErrKeyExists}, {}}, nil},
		{"new key, cannot be written", nil, []ending{{err: full}}, full},
		{"key is there", key, []ending{{applied: true}}, nil},
		{"key is there, others were quicker", key, []ending{{}, {}, {applied: true}}, nil},
		{"key is there, cannot be written", key, []ending{{err: full}}, full},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := &scripted{t: t, kv: tt.kv, ends: tt.ends}
			k := &kvServer{backend: b}
			r, err := k.Put(t.Context(), &etcdserverpb.PutRequest{Key: []byte("/a"), Value: []byte("v")})
			if !errors.Is(err, tt.want) {
				t.Fatalf("Put = %v, want %v", err, tt.want)
			}
			if err == nil && r.GetHeader().GetRevision() != 8 {
				t.Errorf("revision = %d, want 8", r.GetHeader().GetRevision())
			}
			if len(b.ends) > 0 {
				t.Errorf("%d tries are left", len(b.ends))
			}
		})
	}
}
