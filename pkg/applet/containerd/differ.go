package containerd

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// differPlugin is containerd's default differ, with one difference: a layer is
// on the disk before the metadata database says that it is unpacked.
//
// Upstream syncs the database and the layers' archives but not what was
// unpacked from them. After a power cut in the first half minute the image
// counts as there while its files are empty, and no restart of the pod helps
// (https://github.com/containerd/containerd/issues/5854). There are settings,
// sync_fs and image_pull_with_sync_fs, but none for the service that pulls.
func differPlugin() *plugin.Registration {
	return &plugin.Registration{
		Type:     plugins.DiffPlugin,
		ID:       defaults.DefaultDiffer,
		Requires: []plugin.Type{plugins.MetadataPlugin, plugins.MountManagerPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			db, err := getPlugin[*metadata.DB](ic, plugins.MetadataPlugin)
			if err != nil {
				return nil, err
			}
			mounts, err := getPlugin[mount.Manager](ic, plugins.MountManagerPlugin)
			if err != nil && !errors.Is(err, plugin.ErrPluginNotFound) {
				return nil, err
			}
			ic.Meta.Platforms = append(ic.Meta.Platforms, platforms.DefaultSpec())
			store := db.ContentStore()
			return differ{
				Comparer: walking.NewWalkingDiff(store),
				applier:  apply.NewFileSystemApplierWithMountManager(store, mounts),
			}, nil
		},
	}
}

func getPlugin[T any](ic *plugin.InitContext, kind plugin.Type) (T, error) {
	var zero T
	p, err := ic.GetSingle(kind)
	if err != nil {
		return zero, err
	}
	t, ok := p.(T)
	if !ok {
		return zero, fmt.Errorf("use plug-in %s: it is a %T", kind, p)
	}
	return t, nil
}

type differ struct {
	diff.Comparer
	applier diff.Applier
}

var (
	_ diff.Comparer = differ{}
	_ diff.Applier  = differ{}
)

// Apply implements diff.Applier.
func (d differ) Apply(ctx context.Context, layer ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	return d.applier.Apply(ctx, layer, mounts, append(opts, diff.WithSyncFs(true))...)
}
