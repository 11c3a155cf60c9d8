package flannel

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// node says how it is reached: public is "v4" or "v4,v6".
func node(name string, age int, pods, public string) *corev1.Node {
	n := &corev1.Node{}
	n.Name, n.Spec.PodCIDRs = name, strings.Split(pods, ",")
	n.CreationTimestamp = metav1.NewTime(time.Unix(int64(1000-age), 0))
	n.Annotations = map[string]string{annotationManaged: "true", annotationType: BackendVXLAN}
	for i, addr := range strings.Split(public, ",") {
		n.Annotations[[]string{annotationPublic, annotationPublicV6}[i]] = addr
		n.Annotations[[]string{annotationData, annotationDataV6}[i]] = `{"VNI":1}`
	}
	return n
}

// followed starts to follow the nodes of a cluster.
func followed(t *testing.T, list ...*corev1.Node) (*nodes, *fake.Clientset, chan struct{}) {
	t.Helper()
	client := fake.NewClientset()
	for _, n := range list {
		if _, err := client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	changed := make(chan struct{}, 100)
	n, err := newNodes(client, "self", prefixes("10.42.0.0/16", "fd00:42::/56"), func() { changed <- struct{}{} }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := n.peers(); ok {
		t.Error("the nodes are known before anybody has said which there are")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.informer.RunWithContext(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	for range list {
		<-changed
	}
	if !n.waitListed(ctx) {
		t.Fatal("the nodes were not listed")
	}
	return n, client, changed
}

func TestPeers(t *testing.T) {
	quiet := node("quiet", 1, "10.42.9.0/24", "192.0.2.9")
	delete(quiet.Annotations, annotationManaged)
	bare := node("bare", 1, "10.42.8.0/24", "192.0.2.8")
	bare.Spec.PodCIDRs = nil
	v4 := node("v4", 1, "10.42.7.0/24,fd00:42:0:7::/64", "192.0.2.7")
	n, _, _ := followed(t,
		node("self", 9, "10.42.0.0/24", "192.0.2.1"), node("both", 5, "10.42.2.0/24,fd00:42:0:2::/64", "192.0.2.2,2001:db8::2"),
		node("old", 4, "10.42.3.0/24", "192.0.2.3"), node("thief", 3, "10.42.3.0/24", "192.0.2.4"),
		node("outside", 1, "10.99.0.0/24", "192.0.2.5"), node("nonsense", 1, "10.42.6.0/24", "nowhere"), node("local", 1, "10.42.5.0/24", "127.0.0.1"),
		quiet, bare, v4,
	)
	all, ok := n.peers()
	if !ok {
		t.Fatal("the nodes are not known")
	}
	var got []string
	for _, p := range all {
		got = append(got, fmt.Sprint(p.name, " ", p.pods, " ", p.v4.addr, " ", p.v6.addr))
	}
	want := []string{
		"both [10.42.2.0/24 fd00:42:0:2::/64] 192.0.2.2 2001:db8::2",
		"old [10.42.3.0/24] 192.0.2.3 invalid IP",
		"v4 [10.42.7.0/24] 192.0.2.7 invalid IP",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestAnnounce(t *testing.T) {
	old := node("self", 1, "10.42.0.0/24", "192.0.2.1,2001:db8::1")
	n, client, changed := followed(t, old)
	patches := func() (count int) {
		for _, a := range client.Actions() {
			if a.GetVerb() == "patch" {
				count++
			}
		}
		return count
	}
	want := map[string]*string{
		annotationManaged: new("true"), annotationType: new(BackendVXLAN), annotationPublic: new("192.0.2.1"), annotationData: new(`{"VNI":1}`),
		annotationPublicV6: new("2001:db8::1"), annotationDataV6: new(`{"VNI":1}`),
	}
	if err := n.announce(t.Context(), want); err != nil || patches() != 0 {
		t.Errorf("what is said already was said again: %d times, %v", patches(), err)
	}
	want[annotationPublic], want[annotationPublicV6], want[annotationDataV6] = new("192.0.2.77"), nil, nil
	if err := n.announce(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	<-changed
	if err := n.announce(t.Context(), want); err != nil || patches() != 1 {
		t.Errorf("%d patches, %v, want 1", patches(), err)
	}
	got, err := client.CoreV1().Nodes().Get(t.Context(), "self", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]string{annotationManaged: "true", annotationType: BackendVXLAN, annotationPublic: "192.0.2.77", annotationData: `{"VNI":1}`}
	if diff := cmp.Diff(left, got.Annotations); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
