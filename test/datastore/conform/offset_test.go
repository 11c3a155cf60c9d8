package conform

import (
	"context"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

// offset is how much higher the datastore's revisions are than those a client
// sees. The first key of a new etcd has revision 2, and some of upstream's
// tests count on that; kine's table has rows of its own before.
type offset int64

func (o offset) dialOptions() []grpc.DialOption {
	unary := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		o.add(req, int64(o))
		defer o.add(req, -int64(o)) // The client may send it again.
		err := invoke(ctx, method, req, reply, cc, opts...)
		o.add(reply, -int64(o))
		return err
	}
	streams := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := open(ctx, desc, cc, method, opts...)
		return offsetStream{s, o}, err
	}
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(unary), grpc.WithChainStreamInterceptor(streams)}
}

type offsetStream struct {
	grpc.ClientStream

	offset offset
}

func (s offsetStream) SendMsg(m any) error {
	s.offset.add(m, int64(s.offset))
	defer s.offset.add(m, -int64(s.offset))
	return s.ClientStream.SendMsg(m)
}

func (s offsetStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	s.offset.add(m, -int64(s.offset))
	return err
}

// add adds d to all revisions in a message. Zero is none.
func (o offset) add(message any, d int64) {
	add := func(revisions ...*int64) {
		for _, r := range revisions {
			if *r > 0 {
				*r += d
			}
		}
	}
	kvs := func(kvs ...*mvccpb.KeyValue) {
		for _, kv := range kvs {
			if kv != nil {
				add(&kv.CreateRevision, &kv.ModRevision)
			}
		}
	}
	if h, ok := message.(interface {
		GetHeader() *etcdserverpb.ResponseHeader
	}); ok && h.GetHeader() != nil {
		add(&h.GetHeader().Revision)
	}
	switch m := message.(type) {
	case *etcdserverpb.RangeRequest:
		add(&m.Revision)
	case *etcdserverpb.CompactionRequest:
		add(&m.Revision)
	case *etcdserverpb.RangeResponse:
		kvs(m.Kvs...)
	case *etcdserverpb.TxnRequest:
		for _, c := range m.Compare {
			if target, ok := c.TargetUnion.(*etcdserverpb.Compare_ModRevision); ok {
				add(&target.ModRevision)
			}
		}
	case *etcdserverpb.TxnResponse:
		for _, r := range m.Responses {
			if r := r.GetResponseRange(); r != nil {
				o.add(r, d)
			}
		}
	case *etcdserverpb.WatchRequest:
		if c := m.GetCreateRequest(); c != nil {
			add(&c.StartRevision)
		}
	case *etcdserverpb.WatchResponse:
		add(&m.CompactRevision)
		for _, e := range m.Events {
			kvs(e.Kv, e.PrevKv)
		}
	}
}
