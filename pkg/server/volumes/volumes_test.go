package volumes

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

func node(ready corev1.ConditionStatus) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge"}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse}, {Type: corev1.NodeReady, Status: ready}}
	return n
}

func volume() *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-1", Labels: map[string]string{nodeLabel: "edge"}}}
	v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "shop", Name: "data"}
	v.Spec.Local = &corev1.LocalVolumeSource{Path: "/storage/pvc-1_shop_data"}
	v.Status.Phase = corev1.VolumeBound
	return v
}

// TestAway takes a node away, back and out of the cluster, by the clock.
func TestAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, events := fake.NewClientset(node(corev1.ConditionTrue), volume()), record.NewFakeRecorder(10)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- newWatcher(client, events, slog.New(slog.DiscardHandler)).run(ctx) }()
		after := func(d time.Duration) (got []string) {
			time.Sleep(d)
			synctest.Wait()
			for len(events.Events) > 0 {
				got = append(got, <-events.Events)
			}
			return got
		}
		set := func(ready corev1.ConditionStatus) {
			if _, err := client.CoreV1().Nodes().Update(ctx, node(ready), metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		const on = " (volume pvc-1, directory /storage/pvc-1_shop_data)"
		const away = "Warning VolumeNodeAway the data is on node edge, which is not ready; pods that use it wait until the node is back" + on
		want := func(what string, got []string, events ...string) {
			t.Helper()
			if diff := cmp.Diff(events, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		want("a node that is ready", after(time.Hour))
		set(corev1.ConditionUnknown)
		want("a node that is away for a moment", after(patience-time.Second))
		set(corev1.ConditionTrue)
		want("and back", after(time.Hour))
		set(corev1.ConditionUnknown)
		want("a node that is away", after(patience+time.Second), away)
		want("a node that stays away", after(time.Hour))
		set(corev1.ConditionTrue)
		want("a node that is back", after(time.Second), "Normal VolumeNodeBack node edge, which has the data, is back"+on)
		if err := client.CoreV1().Nodes().Delete(ctx, "edge", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		want("a node that was removed", after(time.Hour),
			"Warning VolumeNodeAway the data is on node edge, which is not in the cluster any more; pods that use it wait until the node is back"+on)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
