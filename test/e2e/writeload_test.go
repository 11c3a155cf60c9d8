package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"skiff/test/hosts"
)

// writeLoad kills skiff again and again in the middle of writes; no write that
// was acknowledged may be missing afterwards. SKIFF_KILL_ROUNDS sets how often
// (make test does 3 rounds; the release bar is 20).
func writeLoad(t *testing.T, h *hosts.Host) {
	rounds := 3
	if v := os.Getenv("SKIFF_KILL_ROUNDS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatalf("SKIFF_KILL_ROUNDS=%q: %v", v, err)
		}
		rounds = n
	}
	s := newSpace(t, h, "writes")
	before := s.nodeContainers()
	log := ackLog{acked: map[string]int{}}
	for round := range rounds {
		ctx, stop := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		for w := range 4 {
			maps := s.Kube().CoreV1().ConfigMaps(s.ns)
			writers.Go(func() { log.write(ctx, maps, fmt.Sprintf("round-%d-writer-%d", round, w)) })
		}
		// Only a machine knows the moment that hurts: any in the first seconds will do.
		<-time.After(time.Second + rand.N(2*time.Second))
		s.Kill9()
		stop()
		writers.Wait()
		s.Start()
		s.WaitReady()
		if lost := log.lost(s); len(lost) > 0 {
			t.Fatalf("round %d: %d of %d acknowledged writes are lost, first: %s", round+1, len(lost), log.count(), lost[0])
		}
	}
	if log.count() == 0 {
		t.Fatal("nothing was written")
	}
	t.Logf("%d rounds of kill -9, %d acknowledged writes, none lost", rounds, log.count())
	for name, id := range before {
		if now := s.nodeContainers()[name]; now != id {
			t.Errorf("container of %s is now %s, was %s", name, now, id)
		}
	}
}

// nodeContainers maps all pods of the node to their containers.
func (s *space) nodeContainers() map[string]string {
	s.t.Helper()
	all := *s
	all.ns = metav1.NamespaceAll
	return all.containerIDs()
}

// ackLog remembers the newest value of each object that the server has
// acknowledged.
type ackLog struct {
	mu    sync.Mutex
	acked map[string]int // guarded by mu
	n     int            // guarded by mu
}

// write creates objects and updates each a few times, until the server fails.
func (l *ackLog) write(ctx context.Context, maps corev1client.ConfigMapInterface, prefix string) {
	for i := 0; ; i++ {
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", prefix, i)}}
		for version := range 4 {
			object.Data = map[string]string{"version": strconv.Itoa(version)}
			var err error
			if version == 0 {
				object, err = maps.Create(ctx, object, metav1.CreateOptions{})
			} else {
				object, err = maps.Update(ctx, object, metav1.UpdateOptions{})
			}
			if err != nil {
				return // the kill has come
			}
			l.ack(object.Name, version)
		}
	}
}

func (l *ackLog) ack(name string, version int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[name] = version
	l.n++
}

func (l *ackLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// lost lists the acknowledged writes that the server does not have.
func (l *ackLog) lost(s *space) []string {
	s.t.Helper()
	list, err := s.Kube().CoreV1().ConfigMaps(s.ns).List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatalf("list what was written: %v", err)
	}
	found := map[string]int{}
	for _, m := range list.Items {
		version, err := strconv.Atoi(m.Data["version"])
		if err != nil {
			continue // kube-root-ca.crt
		}
		found[m.Name] = version
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var lost []string
	for name, version := range l.acked {
		if got, ok := found[name]; !ok || got < version {
			lost = append(lost, fmt.Sprintf("%s version %d (found %d, exists %t)", name, version, got, ok))
		}
	}
	return lost
}
