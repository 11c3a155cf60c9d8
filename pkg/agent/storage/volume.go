package storage

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// released reports whether nobody wants the volume's data any more: the claim
// is gone and the policy is to delete.
func released(v *corev1.PersistentVolume) bool {
	return v.Status.Phase == corev1.VolumeReleased && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
}

// syncVolume removes a volume that is released, and otherwise sees to its
// finalizer and its limit, which a crash may have left behind.
func (w *worker) syncVolume(ctx context.Context, v *corev1.PersistentVolume) error {
	if released(v) {
		return w.reclaim(ctx, v)
	}
	has := slices.Contains(v.Finalizers, dataFinalizer)
	want := v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
	if has != want && (has || v.DeletionTimestamp == nil) {
		return w.setFinalizer(ctx, v, want)
	}
	if v.Status.Phase != corev1.VolumeBound || v.DeletionTimestamp != nil {
		return nil
	}
	dir, err := w.dirs.name(v)
	if err != nil {
		return nil //nolint:nilerr // Somebody has changed --default-local-storage-path: the volume is used where it is.
	}
	size := v.Spec.Capacity[corev1.ResourceStorage]
	if _, err := w.dirs.limit(dir, size.Value()); err != nil {
		return fmt.Errorf("limit volume %s: %w", v.Name, err)
	}
	return nil
}

// reclaim removes the data, and then the volume. It asks the API once more,
// since what the informer has may be old and what is removed stays so.
func (w *worker) reclaim(ctx context.Context, old *corev1.PersistentVolume) error {
	v, err := w.client.CoreV1().PersistentVolumes().Get(ctx, old.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get volume %s: %w", old.Name, err)
	}
	if v.UID != old.UID || !w.made(v) || !released(v) {
		return nil
	}
	if err := w.removeData(ctx, v); err != nil {
		if ctx.Err() == nil {
			w.events.Eventf(v, corev1.EventTypeWarning, "VolumeFailedDelete", "the data could not be removed: %v", err)
		}
		return err
	}
	w.Logger.Info("volume removed", "volume", v.Name, "directory", v.Spec.Local.Path)
	if v.DeletionTimestamp == nil {
		err := w.client.CoreV1().PersistentVolumes().Delete(ctx, v.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(v.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete volume %s: %w", v.Name, err)
		}
	}
	if slices.Contains(v.Finalizers, dataFinalizer) {
		return w.setFinalizer(ctx, v, false)
	}
	return nil
}

func (w *worker) removeData(ctx context.Context, v *corev1.PersistentVolume) error {
	dir, err := w.dirs.name(v)
	if err != nil {
		return fmt.Errorf("%w; remove the directory yourself, then set the volume's reclaim policy to Retain and delete it", err)
	}
	return w.dirs.remove(ctx, dir)
}

// setFinalizer adds or removes our finalizer. The API may have changed the
// others meanwhile (a deletion does), so it is asked for them.
func (w *worker) setFinalizer(ctx context.Context, old *corev1.PersistentVolume, want bool) error {
	v, err := w.client.CoreV1().PersistentVolumes().Get(ctx, old.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get volume %s: %w", old.Name, err)
	}
	if v.UID != old.UID || slices.Contains(v.Finalizers, dataFinalizer) == want {
		return nil
	}
	finalizers := slices.DeleteFunc(slices.Clone(v.Finalizers), func(f string) bool { return f == dataFinalizer })
	if want {
		finalizers = append(finalizers, dataFinalizer)
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": v.UID, "resourceVersion": v.ResourceVersion, "finalizers": finalizers},
	})
	if err != nil {
		return err
	}
	_, err = w.client.CoreV1().PersistentVolumes().Patch(ctx, v.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write finalizers of volume %s: %w", v.Name, err)
	}
	return nil
}
