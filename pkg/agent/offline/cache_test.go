package offline

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"skiff/pkg/agent/offline/wire"
)

type notes map[string]string

func (n notes) Set(k, m string) { n[k] = m }
func (n notes) Clear(k string)  { delete(n, k) }

// node is a process on the node: a Cache and the clients that go by it.
type node struct {
	*Cache
	t      *testing.T
	ctx    context.Context //nolint:containedctx // Of the test.
	client kubernetes.Interface
	stop   func()
}

// start starts a process over what is in dir.
func start(t *testing.T, dir string, s *server) *node {
	t.Helper()
	c := New(Options{
		Dir: dir, NodeName: "n1", Secret: func() ([]byte, error) { return []byte("key"), nil },
		Notes: notes{}, Logger: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.run(ctx) }()
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: "http://server", Transport: c.Wrap(s), QPS: -1,
		ContentConfig: rest.ContentConfig{ContentType: wire.ContentType, AcceptContentTypes: wire.ContentType + ",application/json"},
	})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Cache: c, t: t, ctx: ctx, client: client}
	n.stop = func() {
		<-c.opened
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		synctest.Wait()
	}
	return n
}

func (n *node) pods() cache.SharedIndexInformer {
	lw := cache.NewListWatchFromClient(n.client.CoreV1().RESTClient(), "pods", "", fields.OneTermEqualSelector("spec.nodeName", "n1"))
	i := cache.NewSharedIndexInformer(lw, &corev1.Pod{}, 0, cache.Indexers{})
	go i.RunWithContext(n.ctx)
	return i
}

func (n *node) secret(name string) cache.SharedIndexInformer {
	lw := cache.NewListWatchFromClient(n.client.CoreV1().RESTClient(), "secrets", "shop", fields.OneTermEqualSelector("metadata.name", name))
	i := cache.NewSharedIndexInformer(lw, &corev1.Secret{}, 0, cache.Indexers{})
	go i.RunWithContext(n.ctx)
	return i
}

// names waits until an informer knows exactly these, and returns how long that took.
func (n *node) names(i cache.SharedIndexInformer, want ...string) time.Duration {
	n.t.Helper()
	begin := time.Now()
	for {
		got := i.GetStore().ListKeys()
		slices.Sort(got)
		if i.HasSynced() && slices.Equal(got, want) {
			return time.Since(begin)
		}
		if time.Since(begin) > time.Minute {
			n.t.Fatalf("after a minute %v, want %v", got, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestRestartWithoutServer: what a process has seen, the next one knows, and
// both go on when a server is back.
func TestRestartWithoutServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := newServer(t), t.TempDir()
		s.set(pods, pod("a", "n1", nil))
		s.set(pods, pod("b", "n1", nil))
		s.set(pods, pod("elsewhere", "n2", nil))
		s.set(secrets, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "s"}, Data: map[string][]byte{"k": []byte("hidden")}})
		n := start(t, dir, s)
		own := n.pods()
		n.names(own, "shop/a", "shop/b")
		n.names(n.secret("s"), "shop/s")
		s.set(pods, pod("c", "n1", nil))
		s.remove(pods, "shop/b")
		n.names(own, "shop/a", "shop/c")

		lists := s.has("sendInitialEvents")
		s.stop()
		time.Sleep(10 * time.Second)
		if !n.Offline() {
			t.Error("not offline")
		}
		n.names(own, "shop/a", "shop/c")
		s.start()
		s.set(pods, pod("d", "n1", nil))
		if took := n.names(own, "shop/a", "shop/c", "shop/d"); took > 7*time.Second {
			t.Errorf("%s after the server was back", took)
		}
		if again := s.has("sendInitialEvents"); again != lists {
			t.Errorf("%d lists instead of %d: a process that has seen all need not begin anew", again, lists)
		}
		n.stop()

		s.stop()
		n = start(t, dir, s)
		own = n.pods()
		if took := n.names(own, "shop/a", "shop/c", "shop/d"); took > 3*time.Second {
			t.Errorf("pods known after %s", took)
		}
		secret := n.secret("s")
		n.names(secret, "shop/s")
		got := secret.GetStore().List()[0].(*corev1.Secret)
		if string(got.Data["k"]) != "hidden" {
			t.Errorf("%v", got)
		}
		p := own.GetStore().List()[0].(*corev1.Pod)
		if p.Spec.Containers[0].ImagePullPolicy != corev1.PullIfNotPresent {
			t.Error("the image would be pulled")
		}
		begin := time.Now()
		_, err := n.client.CoreV1().Pods("shop").Get(n.ctx, "unknown", metav1.GetOptions{})
		if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(begin) > time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		s.remove(pods, "shop/a")
		s.start()
		if took := n.names(own, "shop/c", "shop/d"); took > 7*time.Second {
			t.Errorf("%s after the server was back", took)
		}
		n.stop()
		data, err := os.ReadFile(filepath.Join(dir, "state"))
		if err != nil || bytes.Contains(data, []byte("hidden")) {
			t.Errorf("the file tells secrets (%v)", err)
		}
	})
}

// TestServerThatHangs: a server that does not answer is one that is not there.
func TestServerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := newServer(t), t.TempDir()
		s.set(pods, pod("a", "n1", nil))
		n := start(t, dir, s)
		n.names(n.pods(), "shop/a")
		s.mu.Lock()
		s.hangs = true
		s.mu.Unlock()
		s.stop()
		begin := time.Now()
		if _, err := n.client.CoreV1().Pods("shop").Get(n.ctx, "a", metav1.GetOptions{}); err != nil || time.Since(begin) > 6*time.Second {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		n.stop()
		n = start(t, dir, s)
		if took := n.names(n.pods(), "shop/a"); took > 3*time.Second {
			t.Errorf("pods known after %s", took)
		}
		n.stop()
	})
}

// TestServerThatStarts: a server that only says that it is starting is no help.
func TestServerThatStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := newServer(t), t.TempDir()
		s.set(pods, pod("a", "n1", nil))
		n := start(t, dir, s)
		n.names(n.pods(), "shop/a")
		n.stop()
		s.starting = true
		n = start(t, dir, s)
		n.names(n.pods(), "shop/a")
		if !n.Offline() {
			t.Error("not offline")
		}
		n.stop()
	})
}

// TestFinished: what the kubelet says of a pod without a server is known after
// a restart, but no server has heard it, and the kubelet knows that.
func TestFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := newServer(t), t.TempDir()
		s.set(pods, pod("job", "n1", nil))
		n := start(t, dir, s)
		n.names(n.pods(), "shop/job")
		s.stop()
		patch := []byte(`{"metadata":{"uid":"uid-of-pod"},"status":{"phase":"Succeeded"},"spec":{"nodeName":"n2"}}`)
		_, err := n.client.CoreV1().Pods("shop").Patch(n.ctx, "job", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%v", err)
		}
		n.stop()
		n = start(t, dir, s)
		own := n.pods()
		n.names(own, "shop/job")
		p := own.GetStore().List()[0].(*corev1.Pod)
		if p.Status.Phase != corev1.PodSucceeded || p.Spec.NodeName != "n1" {
			t.Errorf("phase %s on %s", p.Status.Phase, p.Spec.NodeName)
		}
		s.start()
		for range 1000 {
			if p = own.GetStore().List()[0].(*corev1.Pod); p.Status.Phase == corev1.PodRunning {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if p.Status.Phase != corev1.PodRunning {
			t.Error("the kubelet does not see that the server has not heard it")
		}
		n.stop()
	})
}

func (n *node) token(uid string) (*authenticationv1.TokenRequest, error) {
	return n.client.CoreV1().ServiceAccounts("shop").CreateToken(n.ctx, "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{
			Audiences: []string{"api"}, ExpirationSeconds: new(int64(3607)),
			BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", UID: types.UID(uid)},
		},
	}, metav1.CreateOptions{})
}

// TestToken: a pod gets its last token, also when that has expired.
func TestToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := newServer(t), t.TempDir()
		s.token = authenticationv1.TokenRequestStatus{Token: "jwt", ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))}
		n := start(t, dir, s)
		if _, err := n.token("one"); err != nil {
			t.Fatal(err)
		}
		n.stop()
		s.stop()
		time.Sleep(7 * 24 * time.Hour)
		n = start(t, dir, s)
		got, err := n.token("one")
		if err != nil || got.Status.Token != "jwt" || time.Until(got.Status.ExpirationTimestamp.Time) < time.Minute {
			t.Errorf("%v, %v", got, err)
		}
		if _, err := n.token("two"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%v", err)
		}
		n.stop()
	})
}

// TestCollect: Secrets are kept for as long as a pod of this node needs them.
func TestCollect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := newServer(t), t.TempDir()
		s.set(pods, pod("a", "n1", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "needed"}}}}
		}))
		for _, name := range []string{"needed", "other"} {
			s.set(secrets, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}})
		}
		n := start(t, dir, s)
		n.names(n.pods(), "shop/a")
		ctx := n.ctx
		var stop context.CancelFunc
		n.ctx, stop = context.WithCancel(ctx)
		n.names(n.secret("needed"), "shop/needed")
		n.names(n.secret("other"), "shop/other")
		stop()
		n.ctx = ctx
		time.Sleep(3 * time.Hour)
		n.stop()
		s.stop()
		n = start(t, dir, s)
		<-n.opened
		var got []string
		for k := range n.state.tables[secrets] {
			got = append(got, k)
		}
		if diff := cmp.Diff([]string{"shop/needed"}, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		n.stop()
	})
}

// TestLimit: what is more than may be kept is left out, and not this node's
// own pods; somebody is told.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := newServer(t), t.TempDir()
		s.set(pods, pod("a", "n1", nil))
		s.set(secrets, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "big"}, Data: map[string][]byte{"k": bytes.Repeat([]byte("x"), 100_000)}})
		n := start(t, dir, s)
		n.o.Limit = 50_000
		n.names(n.pods(), "shop/a")
		n.names(n.secret("big"), "shop/big")
		n.mu.Lock()
		if n.state.live > n.o.Limit || len(n.state.tables[pods]) != 1 || len(n.refused) != 1 {
			t.Errorf("%d bytes, %d pods, refused %v", n.state.live, len(n.state.tables[pods]), n.refused)
		}
		n.mu.Unlock()
		if n.o.Notes.(notes)[noteSize] == "" {
			t.Error("nobody is told")
		}
		n.stop()
	})
}

// TestWear: what has not changed is not written, and a node that says that it
// is alive has not changed.
func TestWear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := newServer(t), t.TempDir()
		node := func(i int) *corev1.Node {
			return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.NewTime(time.Unix(int64(i), 0)),
			}}}}
		}
		s.set(nodes, node(0))
		n := start(t, dir, s)
		lw := cache.NewListWatchFromClient(n.client.CoreV1().RESTClient(), "nodes", "", fields.Everything())
		i := cache.NewSharedIndexInformer(lw, &corev1.Node{}, 0, cache.Indexers{})
		go i.RunWithContext(n.ctx)
		n.names(i, "n1")
		time.Sleep(time.Minute)
		n.mu.Lock()
		before := n.journal.Size()
		n.mu.Unlock()
		for beat := range 100 {
			s.set(nodes, node(beat+1))
			time.Sleep(time.Minute)
		}
		n.mu.Lock()
		if after := n.journal.Size(); after != before {
			t.Errorf("%d bytes written", after-before)
		}
		n.mu.Unlock()
		n.stop()
	})
}

// TestChurn: the file does not grow with what happens, and what was killed in
// the middle is read as it was.
func TestChurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dir := newServer(t), t.TempDir()
		s.set(pods, pod("stays", "n1", nil))
		n := start(t, dir, s)
		own := n.pods()
		n.names(own, "shop/stays")
		for i := range 2000 {
			s.set(pods, pod("p", "n1", func(p *corev1.Pod) {
				p.Annotations = map[string]string{"big": strings.Repeat("y", 5000)}
				p.Status.Message = time.Now().String()
			}))
			time.Sleep(2 * time.Second)
			if i%10 == 0 {
				s.remove(pods, "shop/p")
			}
		}
		n.mu.Lock()
		if size := n.journal.Size(); size > 2<<20 {
			t.Errorf("%d bytes for two pods", size)
		}
		n.mu.Unlock()
		// A copy is what a power cut would leave.
		data, err := os.ReadFile(filepath.Join(dir, "state"))
		if err != nil {
			t.Fatal(err)
		}
		other := t.TempDir()
		if err := os.WriteFile(filepath.Join(other, "state"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		s.stop()
		m := start(t, other, s)
		m.names(m.pods(), "shop/p", "shop/stays")
		m.stop()
		n.stop()
	})
}
