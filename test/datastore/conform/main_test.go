// Package conform runs upstream's own tests of the API server's storage layer
// (k8s.io/apiserver/pkg/storage/testing) against the datastore: upstream's
// etcd3 store, and the cacher above it, with our server in etcd's place.
// Nothing of the datastore but its public API is known here. Start reading at
// TestStore; table_test.go sees to it that no upstream test is forgotten.
package conform

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/utils/clock"

	"skiff/test/datastore/servers"
	"skiff/test/datastore/store"
)

const (
	podPrefix = "/pods/"
	// valuePrefix is what the transformer of the tests puts before each value.
	valuePrefix = "stored!"
	pollEvery   = 20 * time.Millisecond
)

func TestMain(m *testing.M) {
	flag.Parse()
	// The tests that can run side by side mostly wait, whatever the machine;
	// some of them for no longer than 150 ms.
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(servers.Main(m))
}

// soak reports whether there is time for everything.
func soak() bool { return os.Getenv("SKIFF_SOAK") == "1" }

// backend is a database that the tests run on.
type backend struct {
	name string
	// endpoint returns a --datastore-endpoint with nothing in it yet.
	endpoint func(t *testing.T) string
}

// backends returns all. The servers are started when they are first asked for.
func backends() []backend {
	return []backend{
		{"sqlite", func(*testing.T) string { return "" }},
		{"postgres", func(t *testing.T) string { return servers.Postgres(t) }},
		{"mysql", func(t *testing.T) string { return servers.MySQL(t) }},
	}
}

// fixture is upstream's etcd3 store on a datastore of its own.
type fixture struct {
	ctx         context.Context //nolint:containedctx // It is the test's, as the fixture.
	client      *kubernetes.Client
	codecs      serializer.CodecFactory
	codec       runtime.Codec
	store       storage.Interface
	transformer *transformer
	prefix      string // of all keys
	leases      etcd3.LeaseManagerConfig
}

// options are what some tests want different.
type options struct {
	prefix      string
	transformer value.Transformer
	reuse       int64 // seconds for which a lease is given to new keys
	likeNew     bool  // revisions are to be those of a new etcd
}

func newFixture(t *testing.T, b backend, o options) *fixture {
	t.Helper()
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	for _, add := range []func(*runtime.Scheme) error{example.AddToScheme, examplev1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	ds := store.Start(t, t.TempDir(), b.endpoint(t))
	f := &fixture{ctx: t.Context(), client: o.connect(t, ds), codecs: serializer.NewCodecFactory(scheme), prefix: o.prefix}
	f.client.KV = storagetesting.NewKVRecorder(f.client.KV)
	f.client.Kubernetes = storagetesting.NewKubernetesRecorder(f.client.Kubernetes)
	f.codec = apitesting.TestCodec(f.codecs, examplev1.SchemeGroupVersion)
	if o.transformer == nil {
		o.transformer = storagetesting.NewPrefixTransformer([]byte(valuePrefix), false)
	}
	f.transformer = &transformer{current: o.transformer}

	f.leases = etcd3.NewDefaultLeaseManagerConfig()
	f.leases.ReuseDurationSeconds = cmp.Or(o.reuse, f.leases.ReuseDurationSeconds)
	f.open(t)
	return f
}

// open makes a new store on the datastore that is there.
func (f *fixture) open(t *testing.T) {
	t.Helper()
	versioner := storage.APIObjectVersioner{}
	compactor := etcd3.NewCompactor(f.client.Client, 0, clock.RealClock{}, nil)
	t.Cleanup(compactor.Stop)
	s, err := etcd3.New(f.client, compactor, f.codec, newPod, newPodList, f.prefix, podPrefix,
		schema.GroupResource{Resource: "pods"}, f.transformer, f.leases, etcd3.NewDefaultDecoder(f.codec, versioner), versioner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	f.store = s
}

func (o options) connect(t *testing.T, ds *store.Store) *kubernetes.Client {
	t.Helper()
	config := ds.Config()
	if o.likeNew {
		r, err := ds.Client(t).Get(t.Context(), "/")
		if err != nil {
			t.Fatal(err)
		}
		config.DialOptions = append(config.DialOptions, offset(r.Header.Revision-1).dialOptions()...)
	}
	c, err := kubernetes.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func newPod() runtime.Object     { return &example.Pod{} }
func newPodList() runtime.Object { return &example.PodList{} }

// transformer is a value.Transformer that can be exchanged while the store has
// it.
type transformer struct {
	mu      sync.Mutex
	current value.Transformer // guarded by mu
}

var _ value.Transformer = (*transformer)(nil)

func (t *transformer) get() value.Transformer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.current
}

// swap puts another in place and returns a function that undoes it.
func (t *transformer) swap(with value.Transformer) func() {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.current
	t.current = with
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.current = before
	}
}

// TransformFromStorage implements value.Transformer.
func (t *transformer) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	return t.get().TransformFromStorage(ctx, data, dataCtx)
}

// TransformToStorage implements value.Transformer.
func (t *transformer) TransformToStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, error) {
	return t.get().TransformToStorage(ctx, data, dataCtx)
}

// stored checks what is in the datastore for a key.
func (f *fixture) stored(ctx context.Context, t *testing.T, key string) {
	t.Helper()
	r, err := f.client.KV.Get(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) != 1 {
		t.Fatalf("%d values are stored for %s, want one", len(r.Kvs), key)
	}
	obj, err := runtime.Decode(f.codec, r.Kvs[0].Value[len(valuePrefix):])
	if err != nil {
		t.Fatalf("decode what is stored for %s: %v", key, err)
	}
	pod := obj.(*example.Pod)
	if pod.ResourceVersion != "" || pod.SelfLink != "" { //nolint:staticcheck // SA1019: as upstream's store clears it.
		//nolint:staticcheck // as above
		t.Errorf("the stored object has resource version %q and self link %q, want none", pod.ResourceVersion, pod.SelfLink)
	}
}

// raise writes something that is none of the store's business.
func (f *fixture) raise(ctx context.Context, t *testing.T) int64 {
	t.Helper()
	r, err := f.client.KV.Put(ctx, "/elsewhere", fmt.Sprint(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	return r.Header.Revision
}

// compact compacts as the API server does, and waits until the store has heard
// of it.
func (f *fixture) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	rev, err := storage.APIObjectVersioner{}.ParseResourceVersion(resourceVersion)
	if err != nil {
		t.Fatal(err)
	}
	done := false
	for version := int64(0); !done; {
		// The first call may only learn which version the compaction key has.
		now, _, compacted, err := etcd3.Compact(ctx, f.client.Client, version, int64(rev))
		if err != nil {
			t.Fatalf("compact at %d: %v", rev, err)
		}
		done, version = compacted == int64(rev), now
	}
	if !utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot) {
		return
	}
	limit := time.Now().Add(10 * time.Second)
	for f.store.CompactRevision() != int64(rev) {
		if time.Now().After(limit) {
			t.Fatalf("the store knows of a compaction at %d after ten seconds, want %d", f.store.CompactRevision(), rev)
		}
		time.Sleep(pollEvery)
	}
}
