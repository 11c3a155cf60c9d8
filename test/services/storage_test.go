package services_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/pkg/agent/storage"
)

// atOnce is ready from the beginning.
type atOnce struct{ *storage.Provisioner }

func (atOnce) Ready(context.Context) error { return nil }

// testStorage has node n1 make a volume with its own rights, and try to use
// them for other nodes' volumes. There is no volume controller to bind it.
func (c *cluster) testStorage(t *testing.T) {
	ctx, base := t.Context(), filepath.Join(c.dir, "storage")
	class := &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "disk"}, Provisioner: "skiff.dev/local-path",
		VolumeBindingMode: new(storagev1.VolumeBindingWaitForFirstConsumer), AllowVolumeExpansion: new(true),
	}
	if _, err := c.kube.StorageV1().StorageClasses().Create(ctx, class, create); err != nil {
		t.Fatal(err)
	}
	c.claim(t, "own", "n1")
	c.claim(t, "other", "n2")
	start(t, atOnce{storage.New(storage.Options{NodeName: "n1", Base: base, Kubeconfig: c.kubeconfig, Logger: c.logger.With("component", "storage")})})
	var v *corev1.PersistentVolume
	eventually(t, "volume of the node's claim", func() error {
		list, err := c.kube.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 {
			return fmt.Errorf("there are %d: %w", len(list.Items), err)
		}
		v = &list.Items[0]
		return nil
	})
	if v.Spec.ClaimRef.Name != "own" || filepath.Dir(v.Spec.Local.Path) != base {
		t.Errorf("the volume is %+v", v.Spec)
	}
	c.tryRights(t)

	// It is bound, and grows.
	eventually(t, "binding", func() error {
		v, err := c.kube.CoreV1().PersistentVolumes().Get(ctx, v.Name, get)
		if err != nil {
			return err
		}
		v.Status.Phase = corev1.VolumeBound
		if _, err = c.kube.CoreV1().PersistentVolumes().UpdateStatus(ctx, v, change); err != nil {
			return err
		}
		claim, err := c.kube.CoreV1().PersistentVolumeClaims("default").Get(ctx, "own", get)
		if err != nil {
			return err
		}
		claim.Spec.VolumeName = v.Name
		if claim, err = c.kube.CoreV1().PersistentVolumeClaims("default").Update(ctx, claim, change); err != nil {
			return err
		}
		claim.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: v.Spec.Capacity, AccessModes: v.Spec.AccessModes}
		_, err = c.kube.CoreV1().PersistentVolumeClaims("default").UpdateStatus(ctx, claim, change)
		return err
	})
	_, err := c.kube.CoreV1().PersistentVolumeClaims("default").Patch(ctx, "own", types.MergePatchType,
		[]byte(`{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "larger volume", func() error {
		claim, err := c.kube.CoreV1().PersistentVolumeClaims("default").Get(ctx, "own", get)
		if err != nil || claim.Status.Capacity.Storage().String() != "2Gi" {
			return fmt.Errorf("the claim has %s, %w", claim.Status.Capacity.Storage(), err)
		}
		return nil
	})

	// It is released, and goes.
	eventually(t, "release", func() error {
		v, err := c.kube.CoreV1().PersistentVolumes().Get(ctx, v.Name, get)
		if err != nil {
			return err
		}
		v.Status.Phase = corev1.VolumeReleased
		_, err = c.kube.CoreV1().PersistentVolumes().UpdateStatus(ctx, v, change)
		return err
	})
	eventually(t, "removal", func() error {
		v, err := c.kube.CoreV1().PersistentVolumes().Get(ctx, v.Name, get)
		switch {
		case err == nil && v.DeletionTimestamp == nil:
			return fmt.Errorf("it is there: %+v", v.Status)
		case err == nil && len(v.Finalizers) != 1: // kubernetes.io/pv-protection is a controller's
			return fmt.Errorf("it has finalizers %v", v.Finalizers)
		}
		if left, err := os.ReadDir(base); err != nil || len(left) != 0 {
			return fmt.Errorf("directories: %v, %w", left, err)
		}
		return nil
	})
}

func (c *cluster) claim(t *testing.T, name, node string) {
	t.Helper()
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: map[string]string{
			"volume.kubernetes.io/storage-provisioner": "skiff.dev/local-path", "volume.kubernetes.io/selected-node": node,
		}},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: new("disk"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
	if _, err := c.kube.CoreV1().PersistentVolumeClaims("default").Create(t.Context(), claim, create); err != nil {
		t.Fatal(err)
	}
}

// local is a volume that node n1 might make.
func local(name string, alter func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"storage.skiff.dev/node": "n1"},
			Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": "skiff.dev/local-path"},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: "disk",
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/nowhere"}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "kubernetes.io/hostname", Operator: "In", Values: []string{"n1"}}},
			}}}},
		},
	}
	if alter != nil {
		alter(v)
	}
	return v
}

// tryRights does with an agent's identity what it must not, and what it may.
func (c *cluster) tryRights(t *testing.T) {
	ctx := t.Context()
	cfg, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	agent := kubernetes.NewForConfigOrDie(cfg)
	other := local("of-n2", func(v *corev1.PersistentVolume) {
		v.Labels["storage.skiff.dev/node"] = "n2"
		v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0] = "n2"
	})
	if _, err := c.kube.CoreV1().PersistentVolumes().Create(ctx, other, create); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.CoreV1().PersistentVolumes().Create(ctx, local("of-n1", nil), create); err != nil {
		t.Errorf("an agent cannot make a volume of its own: %v", err)
	}
	const volumes, claims = "local-path volumes of its own node only", "claims for local-path volumes of its own node only"
	made := func(alter func(*corev1.PersistentVolume)) func() error {
		return func() error {
			_, err := agent.CoreV1().PersistentVolumes().Create(ctx, local("bad", alter), metav1.CreateOptions{DryRun: []string{"All"}})
			return err
		}
	}
	term := func(v *corev1.PersistentVolume) *corev1.NodeSelectorTerm {
		return &v.Spec.NodeAffinity.Required.NodeSelectorTerms[0]
	}
	// The API server follows its policies a moment later.
	eventually(t, "policy", func() error {
		if err := made(func(v *corev1.PersistentVolume) { v.Labels["storage.skiff.dev/node"] = "n2" })(); err == nil {
			return errors.New("an agent may make a volume for another node")
		}
		return nil
	})
	for what, try := range map[string]struct {
		do   func() error
		want string
	}{
		"make one for n2":         {made(func(v *corev1.PersistentVolume) { v.Labels["storage.skiff.dev/node"] = "n2" }), volumes},
		"make one that n2 mounts": {made(func(v *corev1.PersistentVolume) { term(v).MatchExpressions[0].Values = []string{"n2"} }), volumes},
		"make one that all mount": {made(func(v *corev1.PersistentVolume) { v.Spec.NodeAffinity = nil }), "node affinity"},
		"make one that another mounts, too": {made(func(v *corev1.PersistentVolume) {
			v.Spec.NodeAffinity.Required.NodeSelectorTerms = append(v.Spec.NodeAffinity.Required.NodeSelectorTerms, *other.Spec.NodeAffinity.Required.NodeSelectorTerms[0].DeepCopy())
		}), volumes},
		"make a hostPath": {made(func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}
		}), volumes},
		"make another driver's": {made(func(v *corev1.PersistentVolume) { v.Annotations = nil }), volumes},
		"take over another node's": {func() error {
			_, err := agent.CoreV1().PersistentVolumes().Patch(ctx, "of-n2", types.MergePatchType, []byte(`{"metadata":{"labels":{"storage.skiff.dev/node":"n1"}}}`), metav1.PatchOptions{})
			return err
		}, volumes},
		"delete another node's": {func() error { return agent.CoreV1().PersistentVolumes().Delete(ctx, "of-n2", remove) }, volumes},
		"write the status of another node's claim": {func() error {
			_, err := agent.CoreV1().PersistentVolumeClaims("default").Patch(ctx, "other", types.MergePatchType, []byte(`{"status":{"capacity":{"storage":"9Gi"}}}`), metav1.PatchOptions{}, "status")
			return err
		}, claims},
		"change a claim": {func() error {
			_, err := agent.CoreV1().PersistentVolumeClaims("default").Patch(ctx, "own", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{})
			return err
		}, "cannot patch resource"},
	} {
		if err := try.do(); err == nil || !strings.Contains(err.Error(), try.want) {
			t.Errorf("an agent may %s: %v", what, err)
		}
	}
	for _, name := range []string{"of-n1", "of-n2"} {
		client := agent
		if name == "of-n2" {
			client = c.kube.(*kubernetes.Clientset)
		}
		if err := client.CoreV1().PersistentVolumes().Delete(ctx, name, remove); err != nil {
			t.Errorf("delete %s: %v", name, err)
		}
		// What protects a volume in use is a controller that does not run here.
		if _, err := c.kube.CoreV1().PersistentVolumes().Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	}
}
