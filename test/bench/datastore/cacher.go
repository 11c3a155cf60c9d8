package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/metrics"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/component-base/metrics/legacyregistry"
)

const (
	cached       = 100 // objects in the cache
	fillLimit    = 30 * time.Second
	cachedPrefix = "/configmaps"
)

// cache makes the API server's storage of one resource, with its cache, on the
// store.
func (b *bench) cache() (storage.Interface, func(), error) {
	proto := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	codec := scheme.Codecs.CodecForVersions(proto, scheme.Codecs.UniversalDeserializer(), corev1.SchemeGroupVersion, corev1.SchemeGroupVersion)
	config := storagebackend.NewDefaultConfig("/registry", codec)
	config.Transport.ServerList = []string{"unix://" + b.socket}
	config.DBMetricPollInterval = 0
	s, destroy, err := registry.StorageWithCacher()(
		config.ForResource(schema.GroupResource{Resource: "configmaps"}), cachedPrefix,
		func(o runtime.Object) (string, error) {
			c, ok := o.(*corev1.ConfigMap)
			if !ok {
				return "", fmt.Errorf("key of %T: want a ConfigMap", o)
			}
			return cachedPrefix + "/" + c.Namespace + "/" + c.Name, nil
		},
		func() runtime.Object { return &corev1.ConfigMap{} },
		func() runtime.Object { return &corev1.ConfigMapList{} },
		func(o runtime.Object) (labels.Set, fields.Set, error) {
			c, ok := o.(*corev1.ConfigMap)
			if !ok {
				return nil, nil, fmt.Errorf("attributes of %T: want a ConfigMap", o)
			}
			return c.Labels, fields.Set{"metadata.name": c.Name, "metadata.namespace": c.Namespace}, nil
		}, nil, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("make the API server's cache: %w", err)
	}
	return s, destroy, nil
}

// consistentLists measures LIST requests without a resource version, which the
// API server answers from its cache once it knows that the cache is fresh. The
// store is quiet but for one write of another resource before each.
func (b *bench) consistentLists(ctx context.Context, c client) error {
	const row, silent = "LIST through the cacher", "LIST through the cacher without writes p50"
	if !b.wants(row+" p50") && !b.wants(row+" p90") && !b.wants(silent) {
		return nil
	}
	metrics.Register()
	s, destroy, err := b.cache()
	if err != nil {
		return err
	}
	defer func() { destroy() }()
	for i := range cached {
		name := fmt.Sprintf("cm-%03d", i)
		o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"key": "value"}}
		if err := s.Create(ctx, cachedPrefix+"/default/"+name, o, &corev1.ConfigMap{}, 0); err != nil {
			return fmt.Errorf("create a ConfigMap: %w", err)
		}
	}
	other := newObject("/registry/other/cacher")
	list := func() error {
		var l corev1.ConfigMapList
		o := storage.ListOptions{Predicate: storage.Everything, Recursive: true}
		if err := s.GetList(ctx, cachedPrefix+"/", o, &l); err != nil {
			return fmt.Errorf("list ConfigMaps: %w", err)
		}
		revision, err := strconv.ParseInt(l.ResourceVersion, 10, 64)
		if err != nil || revision < other.revision || len(l.Items) != cached {
			return fmt.Errorf("list of %d ConfigMaps at %q, want %d at %d or later", len(l.Items), l.ResourceVersion, cached, other.revision)
		}
		return nil
	}
	begin, lost := time.Now(), 0
	for list() != nil { // until the cache is filled
		if time.Since(begin) > fillLimit {
			// Kine reports progress before the event that it covers; then the
			// cache never hears of the object (docs/conformance.md).
			if lost++; lost > 3 {
				return list()
			}
			destroy()
			if s, destroy, err = b.cache(); err != nil {
				return err
			}
			begin = time.Now()
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.add("caches that lost an object", float64(lost))
	cacheBefore, _, err := answered()
	if err != nil {
		return err
	}
	var after, without []float64
	for i := range quietRounds {
		time.Sleep(quietPause + time.Duration(i*7)*time.Millisecond) // not in step with anybody's timer
		if err := other.update(ctx, c); err != nil {
			return err
		}
		for _, times := range []*[]float64{&after, &without} {
			begin := time.Now()
			if err := list(); err != nil {
				return err
			}
			*times = append(*times, ms(time.Since(begin)))
		}
	}
	b.add(row+" p50", quantile(after, 0.5))
	b.add(row+" p90", quantile(after, 0.9))
	b.add(silent, quantile(without, 0.5))
	byCache, byStore, err := answered()
	if n := byCache - cacheBefore; n < 2*quietRounds {
		b.report.note(fmt.Sprintf("%s: only %v of %d lists were answered by the cache (%v by the store in all)", b.system.name, n, 2*quietRounds, byStore))
	}
	return err
}

// answered says how many consistent lists the cache has answered, and how many
// it has passed on to the store after three seconds in vain.
func answered() (byCache, byStore float64, err error) {
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		return 0, 0, fmt.Errorf("gather the cache's metrics: %w", err)
	}
	for _, f := range families {
		if f.GetName() != "apiserver_watch_cache_consistent_read_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() != "fallback" {
					continue
				}
				if l.GetValue() == "true" {
					byStore += m.GetCounter().GetValue()
				} else {
					byCache += m.GetCounter().GetValue()
				}
			}
		}
	}
	return byCache, byStore, nil
}
