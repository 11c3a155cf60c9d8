package conform

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	clientfeatures "k8s.io/client-go/features"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/featuregate"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	"k8s.io/utils/clock"
)

// cached is a store with upstream's cacher above it. The cacher can be
// exchanged for a new one, as if the API server had been restarted.
type cached struct {
	storage.Interface

	fixture *fixture
	clock   *hasty
	cluster bool // objects have no namespace
}

func newCached(t *testing.T, b backend, cluster bool) *cached {
	t.Helper()
	o := options{prefix: "/registry", transformer: identity.NewEncryptCheckTransformer(), likeNew: true}
	c := &cached{fixture: newFixture(t, b, o), cluster: cluster}
	c.cache(t)
	return c
}

// cache begins with an empty cache.
func (c *cached) cache(t *testing.T) {
	t.Helper()
	// As at upstream, the first list fails, so that it is seen to be repeated.
	failing := &storagetesting.StorageInjectingListErrors{Interface: c.fixture.store, Errors: 1}
	if clientfeatures.FeatureGates().Enabled(clientfeatures.WatchListClient) {
		failing.Errors = 0
	}
	keyOf := storage.NamespaceKeyFunc
	if c.cluster {
		keyOf = storage.NoNamespaceKeyFunc
	}
	c.clock = &hasty{}
	cc, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage: failing, Versioner: storage.APIObjectVersioner{}, GroupResource: schema.GroupResource{Resource: "pods"},
		EventsHistoryWindow: cacher.DefaultEventFreshDuration, ResourcePrefix: podPrefix,
		KeyFunc:      func(o runtime.Object) (string, error) { return keyOf(podPrefix, o) },
		GetAttrsFunc: attributes, NewFunc: newPod, NewListFunc: newPodList,
		IndexerFuncs: map[string]storage.IndexerFunc{"spec.nodeName": func(o runtime.Object) string { return o.(*example.Pod).Spec.NodeName }},
		Indexers: &cache.Indexers{
			"f:spec.nodeName":      func(o any) ([]string, error) { return []string{o.(*example.Pod).Spec.NodeName}, nil },
			"f:metadata.namespace": func(o any) ([]string, error) { return []string{o.(*example.Pod).Namespace}, nil },
		},
		Codec: c.fixture.codecs.LegacyCodec(examplev1.SchemeGroupVersion), Clock: c.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	d := cacher.NewCacheDelegator(cc, failing)
	t.Cleanup(func() { d.Stop(); cc.Stop() })
	for {
		if done, err := failing.ErrorsConsumed(); err != nil || done {
			break
		}
		time.Sleep(pollEvery)
	}
	if err := cc.Wait(c.fixture.ctx); err != nil {
		t.Fatal(err)
	}
	c.Interface = d
}

// attributes are the labels and fields of a pod.
func attributes(o runtime.Object) (labels.Set, fields.Set, error) {
	pod, ok := o.(*example.Pod)
	if !ok {
		return nil, nil, fmt.Errorf("a %T is no pod", o)
	}
	return pod.Labels, fields.Set{
		"metadata.name": pod.Name, "metadata.namespace": pod.Namespace,
		"spec.nodeName": pod.Spec.NodeName, "spec.restartPolicy": string(pod.Spec.RestartPolicy), "status.phase": string(pod.Status.Phase),
	}, nil
}

// hasty is a clock on which the cacher's look at the compaction, every fifteen
// seconds otherwise, comes at once.
type hasty struct {
	clock.RealClock

	looks atomic.Int64
}

func (h *hasty) NewTimer(d time.Duration) clock.Timer {
	if d == 15*time.Second {
		return &hastyTimer{h.RealClock.NewTimer(pollEvery), h}
	}
	return h.RealClock.NewTimer(d)
}

type hastyTimer struct {
	clock.Timer

	hasty *hasty
}

// Reset is called after each look.
func (t *hastyTimer) Reset(time.Duration) bool {
	t.hasty.looks.Add(1)
	return t.Timer.Reset(pollEvery)
}

// compact compacts, and waits until the cacher has thrown away what it has of
// older revisions.
func (c *cached) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	c.fixture.compact(ctx, t, resourceVersion)
	if !utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot) {
		return
	}
	// The look that is going on may have begun before.
	seen := c.clock.looks.Load() + 2
	for limit := time.Now().Add(10 * time.Second); c.clock.looks.Load() < seen; time.Sleep(pollEvery) {
		if time.Now().After(limit) {
			t.Fatal("the cacher has not looked at the compaction for ten seconds")
		}
	}
}

// compactAndRestart is how a cacher comes to know nothing from before a
// compaction; a running one keeps what it has.
func (c *cached) compactAndRestart(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	c.compact(ctx, t, resourceVersion)
	c.fixture.open(t)
	c.cache(t)
}

// patient waits after each creation until the cache has it.
type patient struct{ *cached }

func (p patient) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	if err := p.cached.Create(ctx, key, obj, out, ttl); err != nil {
		return err
	}
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(pollEvery) {
		got := newPod()
		err := p.Get(ctx, key, storage.GetOptions{ResourceVersion: "0"}, got)
		if err == nil && equality.Semantic.DeepEqual(got, out) {
			return nil
		}
		if err != nil && !storage.IsNotFound(err) {
			return err
		}
		if time.Now().After(limit) {
			return fmt.Errorf("the cache does not have %s after thirty seconds", key)
		}
	}
}

// notLookedAt and notCounted are for what the cacher only passes on.
func notLookedAt(context.Context, *testing.T, string) {}

func notCounted(*testing.T, uint64, uint64) {}

// TestCacher runs upstream's tests on the cacher, as far as upstream does.
func TestCacher(t *testing.T) {
	for i, b := range backends() {
		t.Run(b.name, func(t *testing.T) {
			if i > 0 && !soak() {
				t.Skip("the cacher sees little of the database below: SKIFF_SOAK=1 runs this")
			}
			run(t, shared(), func(t *testing.T, tt plain) {
				c := newCached(t, b, tt.name == "ClusterScopedWatch")
				switch tt.name {
				case "WatchSemantics", "WatchSemanticInitialEventsExtended", "WatchListMatchSingle":
					tt.run(c.fixture.ctx, t, patient{c})
				default:
					tt.run(c.fixture.ctx, t, c)
				}
			})
			t.Run("more", func(t *testing.T) { testCacher(t, b) })
			for _, consistent := range []bool{true, false} {
				for _, snapshots := range []bool{true, false} {
					t.Run(fmt.Sprintf("lists, consistent %v, from snapshots %v", consistent, snapshots), func(t *testing.T) {
						testLists(t, b, consistent, snapshots)
					})
				}
			}
		})
	}
}

func testCacher(t *testing.T, b backend) {
	tests := []struct {
		name  string
		gates map[featuregate.Feature]bool
		run   func(context.Context, *testing.T, *cached)
	}{
		{"Create", nil, func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestCreate(ctx, t, c, notLookedAt)
		}},
		{"ListContinuation", nil, func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestListContinuation(ctx, t, c, notCounted)
		}},
		{"ListPaginationRareObject", nil, func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestListPaginationRareObject(ctx, t, c, notCounted)
		}},
		{"ListContinuationWithFilter", nil, func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestListContinuationWithFilter(ctx, t, c, notCounted)
		}},
		{"CompactRevision", map[featuregate.Feature]bool{features.ListFromCacheSnapshot: true}, func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestCompactRevision(ctx, t, c, c.fixture.raise, c.compact)
		}},
		{"WatchFromZero", nil, func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestWatchFromZero(ctx, t, c, c.compactAndRestart)
		}},
		{"WatchDispatchBookmarkEvents", nil, func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, c, true)
		}},
		{"OptionalWatchBookmarksWithCorrectResourceVersion", nil, func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion(ctx, t, c)
		}},
		{"Stats", map[featuregate.Feature]bool{features.SizeBasedListCostEstimate: false}, func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestStats(ctx, t, c, c.fixture.codec, c.fixture.transformer, false)
		}},
		{"Stats with sizes", map[featuregate.Feature]bool{features.SizeBasedListCostEstimate: true}, func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestStats(ctx, t, c, c.fixture.codec, c.fixture.transformer, true)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			setGates(t, tt.gates)
			c := newCached(t, b, false)
			tt.run(c.fixture.ctx, t, c)
		})
	}
}

func testLists(t *testing.T, b backend, consistent, snapshots bool) {
	gate := utilfeature.DefaultFeatureGate
	featuregatetesting.SetFeatureGateDuringTest(t, gate, features.ListFromCacheSnapshot, snapshots)
	if !consistent { // It cannot be turned off any more in the newest version.
		featuregatetesting.SetFeatureGateEmulationVersionDuringTest(t, gate, version.MustParse("1.33"))
		featuregatetesting.SetFeatureGateDuringTest(t, gate, features.ConsistentListFromCache, false)
	}
	tests := []struct {
		name string
		run  func(context.Context, *testing.T, *cached)
	}{
		{"List", func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestList(ctx, t, c, c.compact, true, c.fixture.client.Kubernetes.(*storagetesting.KubernetesRecorder))
		}},
		{"ConsistentList", func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestConsistentList(ctx, t, c, c.fixture.raise, true, consistent, snapshots)
		}},
		{"GetListNonRecursive", func(ctx context.Context, t *testing.T, c *cached) {
			storagetesting.RunTestGetListNonRecursive(ctx, t, c.fixture.raise, c)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCached(t, b, false)
			tt.run(c.fixture.ctx, t, c)
		})
	}
}
