package conform

import (
	"context"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
)

// exchangeable is a store whose transformer the tests exchange.
type exchangeable struct {
	storage.Interface

	transformer *transformer
}

var (
	_ storagetesting.InterfaceWithPrefixTransformer  = exchangeable{}
	_ storagetesting.InterfaceWithCorruptTransformer = exchangeable{}
)

// UpdatePrefixTransformer implements storagetesting.InterfaceWithPrefixTransformer.
func (e exchangeable) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	return e.transformer.swap(modify(storagetesting.NewPrefixTransformer([]byte(valuePrefix), false)))
}

// CorruptTransformer implements storagetesting.InterfaceWithCorruptTransformer.
func (e exchangeable) CorruptTransformer() func() {
	return e.transformer.swap(etcd3.WithCorruptObjErrorHandlingTransformer(illegible{e.transformer.get()}))
}

// illegible can read nothing.
type illegible struct{ value.Transformer }

func (illegible) TransformFromStorage(context.Context, []byte, value.Context) ([]byte, bool, error) {
	return nil, false, errors.New("not legible")
}

func (f *fixture) exchangeable() exchangeable { return exchangeable{f.store, f.transformer} }

// reads returns a check of how often the store has asked the datastore, and
// how many values it has looked at.
func (f *fixture) reads() storagetesting.CallsValidation {
	const largestPage = 10000 // of the store's
	kv, tr := f.client.KV.(*storagetesting.KVRecorder), f.transformer.get().(*storagetesting.PrefixTransformer)
	return func(t *testing.T, page, objects uint64) {
		t.Helper()
		if got := tr.GetReadsAndReset(); got != objects {
			t.Errorf("%d values were read, want %d", got, objects)
		}
		// The store doubles its pages while it finds nothing.
		calls := uint64(1)
		for seen := uint64(1); page != 0 && seen < objects; calls++ {
			page = min(2*page, largestPage)
			seen += page
		}
		if got := kv.GetReadsAndReset(); got != calls {
			t.Errorf("the datastore was asked %d times, want %d", got, calls)
		}
	}
}

// keys lists the keys of all pods, for the estimate of their size.
func (f *fixture) keys(ctx context.Context) ([]string, error) {
	r, err := f.client.KV.Get(ctx, f.prefix+podPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, kv := range r.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys, nil
}

// askForProgress does what the cacher does while somebody waits for it. etcd
// would tell of its progress unasked, if told to do so every second.
func (f *fixture) askForProgress(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(f.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := f.store.RequestWatchProgress(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("request progress: %v", err)
			}
			time.Sleep(5 * pollEvery)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// special are the tests of the store that need more than a store.
func special() []struct {
	name  string
	gates map[featuregate.Feature]bool
	run   func(*testing.T, *fixture)
} {
	snapshots := func(on bool) map[featuregate.Feature]bool {
		return map[featuregate.Feature]bool{features.ListFromCacheSnapshot: on}
	}
	return []struct {
		name  string
		gates map[featuregate.Feature]bool
		run   func(*testing.T, *fixture)
	}{
		{"Create", nil, func(t *testing.T, f *fixture) { storagetesting.RunTestCreate(f.ctx, t, f.store, f.stored) }},
		{"GetListNonRecursive", nil, func(t *testing.T, f *fixture) {
			storagetesting.RunTestGetListNonRecursive(f.ctx, t, f.raise, f.store)
		}},
		{"GuaranteedUpdate", nil, func(t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdate(f.ctx, t, f.exchangeable(), f.stored)
		}},
		{"GuaranteedUpdateChecksStoredData", nil, func(t *testing.T, f *fixture) {
			storagetesting.RunTestGuaranteedUpdateChecksStoredData(f.ctx, t, f.exchangeable())
		}},
		{"TransformationFailure", nil, func(t *testing.T, f *fixture) {
			storagetesting.RunTestTransformationFailure(f.ctx, t, f.exchangeable())
		}},
		{"List", nil, func(t *testing.T, f *fixture) {
			storagetesting.RunTestList(f.ctx, t, f.store, f.compact, false, f.client.Kubernetes.(*storagetesting.KubernetesRecorder))
		}},
		{"ConsistentList", nil, func(t *testing.T, f *fixture) {
			storagetesting.RunTestConsistentList(f.ctx, t, f.store, f.raise, false, true, false)
		}},
		{"CompactRevision", snapshots(true), func(t *testing.T, f *fixture) {
			storagetesting.RunTestCompactRevision(f.ctx, t, f.store, f.raise, f.compact)
		}},
		{"ListContinuation", snapshots(false), func(t *testing.T, f *fixture) {
			storagetesting.RunTestListContinuation(f.ctx, t, f.store, f.reads())
		}},
		{"ListPaginationRareObject", snapshots(false), func(t *testing.T, f *fixture) {
			storagetesting.RunTestListPaginationRareObject(f.ctx, t, f.store, f.reads())
		}},
		{"ListContinuationWithFilter", snapshots(false), func(t *testing.T, f *fixture) {
			storagetesting.RunTestListContinuationWithFilter(f.ctx, t, f.store, f.reads())
		}},
		{"ListInconsistentContinuation", nil, func(t *testing.T, f *fixture) {
			storagetesting.RunTestListInconsistentContinuation(f.ctx, t, f.store, f.compact)
		}},
		{"ListResourceVersionMatch", nil, func(t *testing.T, f *fixture) {
			storagetesting.RunTestListResourceVersionMatch(f.ctx, t, f.exchangeable())
		}},
		{"Stats", nil, func(t *testing.T, f *fixture) {
			storagetesting.RunTestStats(f.ctx, t, f.store, f.codec, f.transformer, false)
		}},
		{"Stats with sizes", nil, func(t *testing.T, f *fixture) {
			if err := f.store.EnableResourceSizeEstimation(f.keys); err != nil {
				t.Fatal(err)
			}
			storagetesting.RunTestStats(f.ctx, t, f.store, f.codec, f.transformer, true)
		}},
		{"WatchFromZero", nil, func(t *testing.T, f *fixture) {
			storagetesting.RunTestWatchFromZero(f.ctx, t, f.store, f.compact)
		}},
		{"WatchError", nil, func(t *testing.T, f *fixture) { storagetesting.RunTestWatchError(f.ctx, t, f.exchangeable()) }},
		{"WatchErrorIsBlockingFurtherEvents", nil, func(t *testing.T, f *fixture) {
			storagetesting.RunWatchErrorIsBlockingFurtherEvents(f.ctx, t, f.exchangeable())
		}},
		{"WatchContextCancel", nil, func(t *testing.T, f *fixture) { storagetesting.RunTestWatchContextCancel(f.ctx, t, f.store) }},
		{"WatchWithUnsafeDelete", map[featuregate.Feature]bool{features.AllowUnsafeMalformedObjectDeletion: true}, func(t *testing.T, f *fixture) {
			storagetesting.RunTestWatchWithUnsafeDelete(f.ctx, t, f.exchangeable())
		}},
		{"WatchSemantics with concurrent decoding", map[featuregate.Feature]bool{features.ConcurrentWatchObjectDecode: true}, func(t *testing.T, f *fixture) {
			storagetesting.RunWatchSemantics(f.ctx, t, f.store)
		}},
		{"WatchDispatchBookmarkEvents", nil, func(t *testing.T, f *fixture) {
			storagetesting.RunTestWatchDispatchBookmarkEvents(f.ctx, t, f.store, false)
		}},
		{"ProgressNotify", nil, func(t *testing.T, f *fixture) {
			f.askForProgress(t)
			storagetesting.RunOptionalTestProgressNotify(f.ctx, t, f.store, f.raise)
		}},
	}
}

// TestStore runs upstream's tests on its etcd3 store.
func TestStore(t *testing.T) {
	for i, b := range backends() {
		t.Run(b.name, func(t *testing.T) {
			run(t, shared(), func(t *testing.T, tt plain) {
				f := newFixture(t, b, options{reuse: 1})
				tt.run(f.ctx, t, f.store)
			})
			for _, tt := range special() {
				t.Run(tt.name, func(t *testing.T) {
					if i > 0 && !soak() && tt.name == "WatchDispatchBookmarkEvents" {
						t.Skip("waits for what etcd's store never sends: SKIFF_SOAK=1 runs this")
					}
					setGates(t, tt.gates)
					tt.run(t, newFixture(t, b, options{reuse: 1}))
				})
			}
		})
	}
}

func setGates(t *testing.T, gates map[featuregate.Feature]bool) {
	t.Helper()
	for name, on := range gates {
		featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, name, on)
	}
}
