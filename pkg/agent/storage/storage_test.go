package storage

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

// bench is a worker with an API of its own, which has no controllers.
type bench struct {
	t      *testing.T
	base   string
	client *fake.Clientset
	events *record.FakeRecorder
}

func newBench(t *testing.T, class *storagev1.StorageClass) *bench {
	t.Helper()
	b := &bench{t: t, base: filepath.Join(t.TempDir(), "storage"), client: fake.NewClientset(class), events: record.NewFakeRecorder(100)}
	p := New(Options{NodeName: "edge", Base: b.base, Logger: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	w := p.newWorker(b.client, b.events)
	go func() { ended <- w.run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return b
}

func localPath(policy corev1.PersistentVolumeReclaimPolicy) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local-path"}, Provisioner: provisioner, ReclaimPolicy: &policy}
}

func claim(name string, change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: name, UID: types.UID("uid-" + name),
			Annotations: map[string]string{provisionerNote: provisioner, nodeNote: "edge"},
		},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: new("local-path"),
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
	if change != nil {
		change(c)
	}
	return c
}

func (b *bench) create(c *corev1.PersistentVolumeClaim) {
	b.t.Helper()
	if _, err := b.client.CoreV1().PersistentVolumeClaims(c.Namespace).Create(b.t.Context(), c, metav1.CreateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

// event waits for one of the reason.
func (b *bench) event(reason string) string {
	b.t.Helper()
	for {
		select {
		case e := <-b.events.Events:
			if strings.Contains(e, " "+reason+" ") {
				return e
			}
		case <-time.After(30 * time.Second):
			b.t.Fatalf("there is no event %s", reason)
		}
	}
}

func (b *bench) volume(name string) *corev1.PersistentVolume {
	b.t.Helper()
	v, err := b.client.CoreV1().PersistentVolumes().Get(b.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// bind does what the volume controller would.
func (b *bench) bind(name string) *corev1.PersistentVolume {
	b.t.Helper()
	v := b.volume(name)
	v.Status.Phase = corev1.VolumeBound
	b.update(v)
	c, err := b.client.CoreV1().PersistentVolumeClaims(v.Spec.ClaimRef.Namespace).Get(b.t.Context(), v.Spec.ClaimRef.Name, metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	c.Spec.VolumeName = name
	c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: v.Spec.Capacity}
	b.updateClaim(c)
	return v
}

func (b *bench) update(v *corev1.PersistentVolume) {
	b.t.Helper()
	if _, err := b.client.CoreV1().PersistentVolumes().Update(b.t.Context(), v, metav1.UpdateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) updateClaim(c *corev1.PersistentVolumeClaim) {
	b.t.Helper()
	if _, err := b.client.CoreV1().PersistentVolumeClaims(c.Namespace).Update(b.t.Context(), c, metav1.UpdateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

// until waits for something that the worker does without an event.
func (b *bench) until(what string, done func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); {
		if time.Now().After(deadline) {
			b.t.Fatal("did not happen: " + what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestVolumeFromClaimToRemoval(t *testing.T) {
	b := newBench(t, localPath(corev1.PersistentVolumeReclaimDelete))
	b.create(claim("other-node", func(c *corev1.PersistentVolumeClaim) { c.Annotations[nodeNote] = "elsewhere" }))
	b.create(claim("other-driver", func(c *corev1.PersistentVolumeClaim) { c.Annotations[provisionerNote] = "example.com/x" }))
	b.create(claim("data", nil))
	b.event("ProvisioningSucceeded")
	b.event("CapacityNotEnforced")
	v := b.bind("pvc-uid-data")
	dir := filepath.Join(b.base, "pvc-uid-data_shop_data")
	got := []any{
		v.Spec.Local.Path, v.Spec.AccessModes[0], string(v.Spec.PersistentVolumeReclaimPolicy), v.Spec.ClaimRef.UID, v.Finalizers, v.Spec.StorageClassName,
		v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values,
	}
	want := []any{dir, corev1.ReadWriteOnce, "Delete", types.UID("uid-data"), []string{dataFinalizer}, "local-path", []string{"edge"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the volume (-want +got):\n%s", diff)
	}

	// It grows.
	c, err := b.client.CoreV1().PersistentVolumeClaims("shop").Get(t.Context(), "data", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("3Gi")
	c.Status.Conditions = []corev1.PersistentVolumeClaimCondition{{Type: corev1.PersistentVolumeClaimResizing}, {Type: "Own"}}
	b.updateClaim(c)
	b.event("VolumeResizeSuccessful")
	if c, err = b.client.CoreV1().PersistentVolumeClaims("shop").Get(t.Context(), "data", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	grown := b.volume("pvc-uid-data").Spec.Capacity[corev1.ResourceStorage]
	told, allocated := c.Status.Capacity[corev1.ResourceStorage], c.Status.AllocatedResources[corev1.ResourceStorage]
	if grown.String() != "3Gi" || told.String() != "3Gi" || allocated.String() != "3Gi" || len(c.Status.Conditions) != 1 {
		t.Errorf("after growing: volume %s, claim %+v", grown.String(), c.Status)
	}

	// It goes, with what is in it.
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	v = b.volume("pvc-uid-data")
	v.Status.Phase = corev1.VolumeReleased
	b.update(v)
	b.until("removal of the directory", func() bool {
		_, err := os.Stat(dir)
		return os.IsNotExist(err)
	})
	b.until("removal of the volume", func() bool {
		list, err := b.client.CoreV1().PersistentVolumes().List(t.Context(), metav1.ListOptions{})
		return err == nil && len(list.Items) == 0
	})
	if left, err := os.ReadDir(b.base); err != nil || len(left) != 0 {
		t.Errorf("there are directories left: %v, %v", left, err)
	}
}

func TestRetainKeepsData(t *testing.T) {
	b := newBench(t, localPath(corev1.PersistentVolumeReclaimRetain))
	b.create(claim("data", nil))
	b.event("ProvisioningSucceeded")
	v := b.bind("pvc-uid-data")
	if len(v.Finalizers) != 0 {
		t.Errorf("a volume that is retained has finalizers %v", v.Finalizers)
	}
	// The policy is what counts when the claim goes, not what the class said.
	v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
	b.update(v)
	b.until("the finalizer to be added", func() bool { return slices.Contains(b.volume(v.Name).Finalizers, dataFinalizer) })
	v = b.volume(v.Name)
	v.Spec.PersistentVolumeReclaimPolicy, v.Status.Phase = corev1.PersistentVolumeReclaimRetain, corev1.VolumeReleased
	b.update(v)
	b.until("the finalizer to be removed", func() bool { return len(b.volume(v.Name).Finalizers) == 0 })
	if _, err := os.Stat(v.Spec.Local.Path); err != nil {
		t.Errorf("the retained data: %v", err)
	}
}

func TestForeignPathIsLeftAlone(t *testing.T) {
	b := newBench(t, localPath(corev1.PersistentVolumeReclaimDelete))
	b.create(claim("data", nil))
	b.event("ProvisioningSucceeded")
	v := b.bind("pvc-uid-data")
	precious := filepath.Join(t.TempDir(), "pvc-uid-data_x")
	if err := os.Mkdir(precious, 0o700); err != nil {
		t.Fatal(err)
	}
	v.Spec.Local.Path, v.Status.Phase = precious, corev1.VolumeReleased
	b.update(v)
	if e := b.event("VolumeFailedDelete"); !strings.Contains(e, "is not a volume below "+b.base) {
		t.Errorf("the event is %q", e)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*corev1.PersistentVolumeClaim)
		class  map[string]string
		want   string
	}{
		"rwx": {want: "access mode ReadWriteMany is not possible", change: func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = append(c.Spec.AccessModes, corev1.ReadWriteMany)
		}},
		"rox": {want: "access mode ReadOnlyMany is not possible", change: func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
		}},
		"block": {want: "volume mode Block is not possible", change: func(c *corev1.PersistentVolumeClaim) {
			c.Spec.VolumeMode = new(corev1.PersistentVolumeBlock)
		}},
		"copy": {want: "a data source is not possible", change: func(c *corev1.PersistentVolumeClaim) {
			c.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "other"}
		}},
		"selector": {want: "a selector is not possible", change: func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{}
		}},
		"attributes": {want: "VolumeAttributesClass fast is not possible", change: func(c *corev1.PersistentVolumeClaim) {
			c.Spec.VolumeAttributesClassName = new("fast")
		}},
		"parameters": {want: "has parameter nodePath", class: map[string]string{"nodePath": "/x"}},
	} {
		t.Run(name, func(t *testing.T) {
			class := localPath(corev1.PersistentVolumeReclaimDelete)
			class.Parameters = tc.class
			b := newBench(t, class)
			b.create(claim(name, tc.change))
			if e := b.event("ProvisioningFailed"); !strings.Contains(e, tc.want) || !strings.Contains(e, "on node edge") {
				t.Errorf("the event is %q, want %q in it", e, tc.want)
			}
			if _, err := os.Stat(b.base); err == nil {
				t.Error("a directory was made all the same")
			}
		})
	}
}
