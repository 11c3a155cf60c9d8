package containerd

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// recorder keeps what it was asked to do.
type recorder struct{ config diff.ApplyConfig }

func (r *recorder) Apply(ctx context.Context, layer ocispec.Descriptor, _ []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	for _, o := range opts {
		if err := o(ctx, layer, &r.config); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	return layer, nil
}

func TestDifferSyncs(t *testing.T) {
	tests := []struct {
		name string
		opts []diff.ApplyOpt
	}{
		{"by default", nil},
		{"even if told not to", []diff.ApplyOpt{diff.WithSyncFs(false)}},
	}
	for _, tt := range tests {
		r := &recorder{}
		if _, err := (differ{applier: r}).Apply(t.Context(), ocispec.Descriptor{}, nil, tt.opts...); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if !r.config.SyncFs {
			t.Errorf("%s: the layer is not synced", tt.name)
		}
	}
}
