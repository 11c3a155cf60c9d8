package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"skiff/test/hosts"
	"skiff/test/images"
)

// node is a host that is being measured.
type node struct {
	*hosts.Host
	p    *hosts.Program
	f    figures
	kube *kubernetes.Clientset

	prefix string // of the names of the API load's figures
}

// limit is how long anything may take before a round is given up.
const limit = 2 * time.Minute

// coldStart times the start in an empty directory up to the first pod.
func (n *node) coldStart() {
	begin := time.Now()
	n.StartServer()
	n.connect()
	n.f.since("exec to /readyz", begin)
	created := make(chan time.Time, 1)
	go func() {
		n.createPod("first")
		created <- time.Now()
	}()
	n.nodeReady(begin)
	n.f.since("exec to node Ready", begin)
	n.podRunning("first")
	n.f.since("exec to first pod Running", begin)
	n.f.add("exec to first pod accepted", "s", (<-created).Sub(begin).Seconds())
	n.WaitReady()
	n.components("start")
	n.shims()
	n.deletePod("first")
}

// restart times the way from SIGTERM's end to a node that is Ready again.
func (n *node) restart() {
	begin := time.Now()
	n.Stop()
	n.f.since("stop", begin)
	begin = time.Now()
	n.Start()
	n.connect()
	n.f.since("restart to /readyz", begin)
	n.nodeReady(begin)
	n.f.since("restart to node Ready", begin)
	n.WaitReady()
	n.components("restart")
}

// poll calls check every 10 ms until it is true.
func (n *node) poll(what string, check func() bool) {
	for deadline := time.Now().Add(limit); !check(); time.Sleep(10 * time.Millisecond) {
		select {
		case <-n.Skiff().Exited():
			n.p.Fatalf("skiff has ended while the bench waited for %s", what)
		default:
		}
		if time.Now().After(deadline) {
			n.p.Fatalf("waited %s for %s", limit, what)
		}
	}
}

// connect waits for /readyz, as the administrator sees it.
func (n *node) connect() {
	file := n.Path("/etc/skiff/skiff.yaml")
	n.poll("the kubeconfig", func() bool { _, err := os.Stat(file); return err == nil })
	n.kube = n.Kube()
	n.poll("/readyz", func() bool {
		_, err := n.kube.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(context.Background())
		return err == nil
	})
}

// nodeReady waits until the node is Ready by a heartbeat after begin: the word
// of an earlier life does not count.
func (n *node) nodeReady(begin time.Time) {
	ctx, stop := context.WithTimeout(context.Background(), limit)
	defer stop()
	n.watch(ctx, "the node to be Ready", func() (watch.Interface, error) {
		return n.kube.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
	}, readySince(begin))
}

// readySince is true for a Node that is Ready by a heartbeat after begin.
func readySince(begin time.Time) func(watch.Event) bool {
	return func(e watch.Event) bool {
		object, ok := e.Object.(*corev1.Node)
		if !ok {
			return false
		}
		for _, c := range object.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return !c.LastHeartbeatTime.Time.Before(begin.Truncate(time.Second))
			}
		}
		return false
	}
}

// podRunning waits until the named pod is Running.
func (n *node) podRunning(name string) {
	ctx, stop := context.WithTimeout(context.Background(), limit)
	defer stop()
	n.watch(ctx, "pod "+name+" to run", func() (watch.Interface, error) {
		return n.kube.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
	}, func(e watch.Event) bool {
		object, ok := e.Object.(*corev1.Pod)
		return ok && object.Status.Phase == corev1.PodRunning
	})
}

// watch opens watches until one of their events satisfies done.
func (n *node) watch(ctx context.Context, what string, open func() (watch.Interface, error), done func(watch.Event) bool) {
	for ctx.Err() == nil {
		w, err := open()
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		for e := range w.ResultChan() {
			if done(e) {
				w.Stop()
				return
			}
		}
	}
	n.p.Fatalf("waited %s for %s", limit, what)
}

// createPod creates a pod that sleeps, as soon as the server takes it.
func (n *node) createPod(name string) {
	zero := int64(0)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &zero,
			Containers: []corev1.Container{{
				Name: "c", Image: images.Tool, ImagePullPolicy: corev1.PullNever, Command: []string{"sleep", "86400"},
			}},
		},
	}
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		// The default service account comes a moment after the API.
		if _, err = n.kube.CoreV1().Pods("default").Create(context.Background(), pod, metav1.CreateOptions{}); err == nil {
			return
		}
	}
	n.p.Errorf("create pod %s: %v", name, err)
}

// deletePod deletes a pod and waits until it is gone.
func (n *node) deletePod(name string) {
	pods := n.kube.CoreV1().Pods("default")
	if err := pods.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		n.p.Fatalf("delete pod %s: %v", name, err)
	}
	n.poll("the end of pod "+name, func() bool {
		_, err := pods.Get(context.Background(), name, metav1.GetOptions{})
		return err != nil
	})
}

// sequentialPods starts pods one after the other.
func (n *node) sequentialPods(count int) {
	times := make([]float64, 0, count)
	for i := range count {
		name := fmt.Sprintf("seq-%d", i)
		begin := time.Now()
		n.createPod(name)
		n.podRunning(name)
		times = append(times, time.Since(begin).Seconds())
		n.deletePod(name)
	}
	sorted := sortedCopy(times)
	n.f.add("pod create to Running p50", "s", quantile(sorted, 0.5))
	n.f.add("pod create to Running p99", "s", quantile(sorted, 0.99))
}

// components adds what skiff says about its own start: when each component was
// started, which is when those it waits for were ready, and when it was ready.
func (n *node) components(phase string) {
	var report struct {
		Started    time.Time     `json:"started"`
		ReadyAfter time.Duration `json:"readyAfter"`
		Components []struct {
			Name       string        `json:"name"`
			Started    time.Time     `json:"started"`
			ReadyAfter time.Duration `json:"readyAfter"`
		} `json:"components"`
	}
	out := n.Status("-o", "json").Stdout
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		n.p.Fatalf("read skiff status: %v\n%s", err, out)
	}
	n.f.add(phase+": all ready", "s", report.ReadyAfter.Seconds())
	for _, c := range report.Components {
		started := c.Started.Sub(report.Started).Seconds()
		n.f.add(phase+": "+c.Name+" started", "s", started)
		n.f.add(phase+": "+c.Name+" ready", "s", started+c.ReadyAfter.Seconds())
	}
}
