package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

// Sizes of the API load.
const (
	workers      = 16
	lists        = 50
	watchUpdates = 300
	gatedPods    = 200
	payload      = 1024 // bytes in a ConfigMap
)

// load is one run of the API load in a namespace of its own.
type load struct {
	*node
	maps    corev1client.ConfigMapInterface
	pods    corev1client.PodInterface
	objects []*corev1.ConfigMap
}

// apiLoad measures create, list, get, update, watch and delete.
func (n *node) apiLoad(objects int) {
	config := n.RESTConfig()
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		n.p.Fatalf("make client: %v", err)
	}
	const ns = "bench"
	ctx := context.Background()
	if _, err := kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		n.p.Fatalf("create namespace: %v", err)
	}
	l := &load{node: n, maps: kube.CoreV1().ConfigMaps(ns), pods: kube.CoreV1().Pods(ns), objects: make([]*corev1.ConfigMap, objects)}
	l.writesAndReads(ctx)
	l.watchFanout(ctx)
	n.poll("the service account", func() bool {
		_, err := kube.CoreV1().ServiceAccounts(ns).Get(ctx, "default", metav1.GetOptions{})
		return err == nil
	})
	l.podsAndDeletes(ctx)
}

func (l *load) writesAndReads(ctx context.Context) {
	l.parallel("configmap create", len(l.objects), workers, func(i int) (err error) {
		l.objects[i], err = l.maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: mapName(i), Labels: map[string]string{"app": "bench"}},
			Data:       map[string]string{"payload": filler()},
		}, metav1.CreateOptions{})
		return err
	})
	for name, version := range map[string]string{"configmap list, latest": "", "configmap list, cached": "0"} {
		l.parallel(name, lists, 1, func(int) error {
			found, err := l.maps.List(ctx, metav1.ListOptions{ResourceVersion: version})
			if err == nil && len(found.Items) < len(l.objects) {
				return fmt.Errorf("list has %d of %d items", len(found.Items), len(l.objects))
			}
			return err
		})
	}
	l.parallel("configmap get", len(l.objects), workers, func(i int) error {
		_, err := l.maps.Get(ctx, mapName(i), metav1.GetOptions{})
		return err
	})
	l.parallel("configmap update", len(l.objects), workers, func(i int) (err error) {
		l.objects[i].Data["payload"] = filler()
		l.objects[i], err = l.maps.Update(ctx, l.objects[i], metav1.UpdateOptions{})
		return err
	})
}

func (l *load) podsAndDeletes(ctx context.Context) {
	zero := int64(0)
	l.parallel("pod create, never scheduled", gatedPods, workers, func(i int) error {
		_, err := l.pods.Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%05d", i)},
			Spec: corev1.PodSpec{
				SchedulingGates: []corev1.PodSchedulingGate{{Name: "bench.test/hold"}},
				Containers:      []corev1.Container{{Name: "c", Image: "bench.test/none"}},
			},
		}, metav1.CreateOptions{})
		return err
	})
	l.parallel("pod delete", gatedPods, workers, func(i int) error {
		return l.pods.Delete(ctx, fmt.Sprintf("pod-%05d", i), metav1.DeleteOptions{GracePeriodSeconds: &zero})
	})
	l.parallel("configmap delete", len(l.objects), workers, func(i int) error {
		return l.maps.Delete(ctx, mapName(i), metav1.DeleteOptions{})
	})
}

// watchFanout updates one object again and again and times how long after the
// sending of the update its watcher hears of it.
func (l *load) watchFanout(ctx context.Context) {
	target, err := l.maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "watched"}, Data: map[string]string{"payload": filler()}}, metav1.CreateOptions{})
	if err != nil {
		l.p.Fatalf("create the watched object: %v", err)
	}
	w, err := l.maps.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=watched", ResourceVersion: target.ResourceVersion})
	if err != nil {
		l.p.Fatalf("watch: %v", err)
	}
	defer w.Stop()
	var times []float64
	for i := range watchUpdates {
		target.Annotations = map[string]string{"sequence": strconv.Itoa(i)}
		sent := time.Now()
		arrived := make(chan time.Time, 1)
		go func() {
			for e := range w.ResultChan() {
				if m, ok := e.Object.(*corev1.ConfigMap); ok && m.Annotations["sequence"] == strconv.Itoa(i) {
					break
				}
			}
			arrived <- time.Now()
		}()
		if target, err = l.maps.Update(ctx, target, metav1.UpdateOptions{}); err != nil {
			l.p.Fatalf("update the watched object: %v", err)
		}
		select {
		case at := <-arrived:
			times = append(times, at.Sub(sent).Seconds()*1000)
		case <-time.After(10 * time.Second):
			l.p.Fatalf("update %d was never heard of", i)
		}
	}
	l.summarise("watch event after the update was sent", times, 0)
}

// parallel runs task 0…count-1 on some workers and times each call.
func (l *load) parallel(name string, count, workers int, task func(int) error) {
	times, failed := make([]float64, count), make([]error, count)
	var next atomic.Int64
	var wg sync.WaitGroup
	begin := time.Now()
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1) - 1); i < count; i = int(next.Add(1) - 1) {
				start := time.Now()
				failed[i] = task(i)
				times[i] = time.Since(start).Seconds() * 1000
			}
		})
	}
	wg.Wait()
	wall := time.Since(begin)
	for _, err := range failed {
		if err != nil {
			l.p.Fatalf("%s: %v", name, err)
		}
	}
	l.summarise(name, times, wall)
}

func (l *load) summarise(name string, times []float64, wall time.Duration) {
	sorted := sortedCopy(times)
	l.f.add(l.prefix+": "+name+" p50", "ms", quantile(sorted, 0.5))
	l.f.add(l.prefix+": "+name+" p99", "ms", quantile(sorted, 0.99))
	if wall > 0 {
		l.f.add(l.prefix+": "+name+" rate", "1/s", float64(len(times))/wall.Seconds())
	}
}

func mapName(i int) string { return fmt.Sprintf("map-%05d", i) }

func filler() string {
	var b strings.Builder
	for range payload {
		b.WriteByte(byte('a' + rand.N(26)))
	}
	return b.String()
}
