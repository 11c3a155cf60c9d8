package storage

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// refusal says why a claim will never get a volume as it stands.
type refusal string

func (r refusal) Error() string { return string(r) }

// check returns a refusal if a directory cannot be what is asked for.
func check(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	for _, mode := range c.Spec.AccessModes {
		if mode != corev1.ReadWriteOnce && mode != corev1.ReadWriteOncePod {
			return refusal(fmt.Sprintf("access mode %s is not possible: the volume is a directory of one node; use ReadWriteOnce, or a storage driver for shared volumes", mode))
		}
	}
	if m := c.Spec.VolumeMode; m != nil && *m != corev1.PersistentVolumeFilesystem {
		return refusal(fmt.Sprintf("volume mode %s is not possible: the volume is a directory, not a device; use Filesystem", *m))
	}
	if c.Spec.DataSource != nil || c.Spec.DataSourceRef != nil {
		return refusal("a data source is not possible: local volumes start empty")
	}
	if c.Spec.Selector != nil {
		return refusal("a selector is not possible with StorageClass " + class.Name + ": its volumes are made on demand")
	}
	if a := c.Spec.VolumeAttributesClassName; a != nil && *a != "" {
		return refusal("VolumeAttributesClass " + *a + " is not possible: local volumes have no attributes")
	}
	for parameter := range class.Parameters {
		return refusal("StorageClass " + class.Name + " has parameter " + parameter + ": " + provisioner + " has no parameters; where volumes are is said by --default-local-storage-path on each node")
	}
	return nil
}

// provision makes the volume of a claim, unless that has been done.
func (w *worker) provision(ctx context.Context, c *corev1.PersistentVolumeClaim) error {
	volume := "pvc-" + string(c.UID)
	if _, ok, err := get[*corev1.PersistentVolume](w.volumes, volume); ok || err != nil {
		return err // it will be bound
	}
	if err := w.makeVolume(ctx, c, volume); err != nil {
		if ctx.Err() == nil {
			w.events.Eventf(c, corev1.EventTypeWarning, "ProvisioningFailed", "no volume could be made on node %s: %v", w.NodeName, err)
		}
		return err
	}
	return nil
}

func (w *worker) makeVolume(ctx context.Context, c *corev1.PersistentVolumeClaim, volume string) error {
	if c.Spec.StorageClassName == nil {
		return refusal("the claim has no StorageClass")
	}
	class, err := w.client.StorageV1().StorageClasses().Get(ctx, *c.Spec.StorageClassName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get StorageClass %s: %w", *c.Spec.StorageClassName, err)
	}
	if class.Provisioner != provisioner {
		return refusal(fmt.Sprintf("StorageClass %s is now for provisioner %s", class.Name, class.Provisioner))
	}
	if err := check(c, class); err != nil {
		return err
	}
	size := c.Spec.Resources.Requests[corev1.ResourceStorage]
	path, unlimited, err := w.dirs.create(dirName(volume, c.Namespace, c.Name), size.Value())
	if err != nil {
		return err
	}
	_, err = w.client.CoreV1().PersistentVolumes().Create(ctx, w.volume(c, class, volume, path), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // the informer has not seen it yet
	}
	if err != nil {
		return fmt.Errorf("create volume %s: %w", volume, err)
	}
	w.Logger.Info("volume made", "claim", c.Namespace+"/"+c.Name, "volume", volume, "directory", path, "size", size.String(), "limited", unlimited == "")
	w.events.Eventf(c, corev1.EventTypeNormal, "ProvisioningSucceeded", "made volume %s, directory %s on node %s", volume, path, w.NodeName)
	if unlimited != "" {
		w.events.Eventf(c, corev1.EventTypeWarning, "CapacityNotEnforced", "the volume may grow beyond %s: %s", size.String(), unlimited)
	}
	return nil
}

// volume is the object that the claim will be bound to. The source is local
// and not hostPath, so that a missing directory (a disk that is not mounted) is
// an error instead of an empty volume, and fsGroup works.
func (w *worker) volume(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, name, path string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Labels:      map[string]string{nodeLabel: w.NodeName},
			Annotations: map[string]string{provisionedByNote: provisioner},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: c.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   c.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			StorageClassName:              class.Name,
			MountOptions:                  class.MountOptions,
			VolumeMode:                    new(corev1.PersistentVolumeFilesystem),
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion,
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{w.NodeName},
				}},
			}}}},
		},
	}
	if class.ReclaimPolicy != nil {
		v.Spec.PersistentVolumeReclaimPolicy = *class.ReclaimPolicy
	}
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		v.Finalizers = []string{dataFinalizer}
	}
	return v
}

// expand makes a bound volume as large as its claim asks for, and says so in
// both. A claim never becomes smaller; the API server sees to that.
func (w *worker) expand(ctx context.Context, c *corev1.PersistentVolumeClaim) error {
	v, ok, err := get[*corev1.PersistentVolume](w.volumes, c.Spec.VolumeName)
	if err != nil || !ok || !w.made(v) || v.Spec.Local == nil || c.Status.Phase != corev1.ClaimBound {
		return err
	}
	if ref := v.Spec.ClaimRef; ref == nil || ref.UID != c.UID {
		return nil
	}
	want, have, told := c.Spec.Resources.Requests[corev1.ResourceStorage], v.Spec.Capacity[corev1.ResourceStorage], c.Status.Capacity[corev1.ResourceStorage]
	if want.Cmp(have) <= 0 {
		if have.Cmp(told) > 0 {
			return w.tellCapacity(ctx, c, have)
		}
		return nil
	}
	unlimited, err := w.growVolume(ctx, v, want)
	if err != nil {
		if ctx.Err() == nil {
			w.events.Eventf(c, corev1.EventTypeWarning, "VolumeResizeFailed", "volume %s cannot become %s: %v", v.Name, want.String(), err)
		}
		return err
	}
	if err := w.tellCapacity(ctx, c, want); err != nil {
		return err
	}
	w.Logger.Info("volume expanded", "claim", c.Namespace+"/"+c.Name, "volume", v.Name, "from", have.String(), "to", want.String())
	w.events.Eventf(c, corev1.EventTypeNormal, "VolumeResizeSuccessful", "volume %s is %s now, it was %s", v.Name, want.String(), have.String())
	if unlimited != "" {
		w.events.Eventf(c, corev1.EventTypeWarning, "CapacityNotEnforced", "the volume may grow beyond %s: %s", want.String(), unlimited)
	}
	return nil
}

func (w *worker) growVolume(ctx context.Context, v *corev1.PersistentVolume, size resource.Quantity) (unlimited string, err error) {
	dir, err := w.dirs.name(v)
	if err != nil {
		return "", err
	}
	if unlimited, err = w.dirs.limit(dir, size.Value()); err != nil {
		return "", err
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": v.UID, "resourceVersion": v.ResourceVersion},
		"spec":     map[string]any{"capacity": corev1.ResourceList{corev1.ResourceStorage: size}},
	})
	if err != nil {
		return "", err
	}
	if _, err := w.client.CoreV1().PersistentVolumes().Patch(ctx, v.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return "", fmt.Errorf("write capacity of volume %s: %w", v.Name, err)
	}
	return unlimited, nil
}

// resizing are the conditions that are over when a volume has its new size.
var resizing = []corev1.PersistentVolumeClaimConditionType{
	corev1.PersistentVolumeClaimResizing, corev1.PersistentVolumeClaimFileSystemResizePending,
	corev1.PersistentVolumeClaimControllerResizeError, corev1.PersistentVolumeClaimNodeResizeError,
}

// tellCapacity ends an expansion in the claim's status, as KEP-1790 has it.
func (w *worker) tellCapacity(ctx context.Context, c *corev1.PersistentVolumeClaim, size resource.Quantity) error {
	conditions := slices.DeleteFunc(slices.Clone(c.Status.Conditions), func(c corev1.PersistentVolumeClaimCondition) bool {
		return slices.Contains(resizing, c.Type)
	})
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": c.UID, "resourceVersion": c.ResourceVersion},
		"status": map[string]any{
			"capacity":                  corev1.ResourceList{corev1.ResourceStorage: size},
			"allocatedResources":        corev1.ResourceList{corev1.ResourceStorage: size},
			"allocatedResourceStatuses": nil,
			"conditions":                conditions,
		},
	})
	if err != nil {
		return err
	}
	if _, err := w.client.CoreV1().PersistentVolumeClaims(c.Namespace).Patch(ctx, c.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("write capacity of claim %s/%s: %w", c.Namespace, c.Name, err)
	}
	return nil
}
