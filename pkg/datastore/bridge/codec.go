package bridge

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// message is what the generated code of etcd's API can do; grpc's own codec
// knows only newer generators, and marshals such a message twice: once to see
// how long it is.
type message interface {
	Size() int
	MarshalToSizedBuffer(to []byte) (int, error)
	Unmarshal(from []byte) error
}

// codec marshals etcd's messages into buffers of grpc's pool, and leaves
// others, such as those of the health service, to grpc's codec.
type codec struct{ other encoding.CodecV2 }

var _ encoding.CodecV2 = codec{}

// Name implements encoding.CodecV2.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(message)
	if !ok {
		return c.other.Marshal(v)
	}
	size := m.Size()
	if mem.IsBelowBufferPoolingThreshold(size) {
		buf := make([]byte, size)
		n, err := m.MarshalToSizedBuffer(buf)
		if err != nil || n != size {
			return nil, fmt.Errorf("marshal %T: %d of %d bytes: %w", v, n, size, err)
		}
		return mem.BufferSlice{mem.SliceBuffer(buf)}, nil
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	n, err := m.MarshalToSizedBuffer((*buf)[:size])
	if err != nil || n != size {
		pool.Put(buf)
		return nil, fmt.Errorf("marshal %T: %d of %d bytes: %w", v, n, size, err)
	}
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// Unmarshal implements encoding.CodecV2. The message keeps nothing of data.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(message)
	if !ok {
		return c.other.Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	return m.Unmarshal(buf.ReadOnlyData())
}
