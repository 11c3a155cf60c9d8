package offline

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skiff/pkg/agent/offline/wire"
)

// mark sends all who watch a bookmark of the present version.
func (s *server) mark(resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &corev1.Pod{}
	o.ResourceVersion = strconv.Itoa(s.version)
	for w := range s.watches {
		if w.resource == resource {
			go func() { _, _ = w.w.Write(s.event(resource, "BOOKMARK", o)) }()
		}
	}
}

// TestBookmarkEndsFirstWatch: the watch that begins with a list ends with the
// first bookmark after it, and the client goes on from there with one that
// bookmarks do not end.
func TestBookmarkEndsFirstWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.set(pods, pod("a", "n1", nil))
		n := start(t, t.TempDir(), s)
		own := n.pods()
		n.names(own, "shop/a")
		s.set(pods, pod("elsewhere", "n2", nil))
		for range 3 {
			time.Sleep(time.Minute)
			s.mark(pods)
		}
		time.Sleep(10 * time.Second)
		s.mu.Lock()
		var watches []string
		for _, a := range s.asked {
			if strings.Contains(a, "watch=true") {
				watches = append(watches, a)
			}
		}
		s.mu.Unlock()
		if len(watches) != 2 || !strings.Contains(watches[0], "sendInitialEvents=true") || !strings.Contains(watches[1], "resourceVersion=102&") {
			t.Errorf("watches: %q; want one with a list and one from the bookmark, 102", watches)
		}
		s.set(pods, pod("b", "n1", nil))
		n.names(own, "shop/a", "shop/b")
		n.stop()
	})
}

// TestBetween: a bookmark whose read brings the beginning of another event does
// not end the watch before that event is whole.
func TestBetween(t *testing.T) {
	s := newServer(t)
	whole := slices.Concat(s.event(pods, "BOOKMARK", &corev1.Pod{}), s.event(pods, "ADDED", pod("a", "n1", nil)))
	first := len(s.event(pods, "BOOKMARK", &corev1.Pod{}))
	events := &wire.Events{Event: func(string, []byte) error { return nil }}
	for i := range whole {
		if _, err := events.Write(whole[i : i+1]); err != nil {
			t.Fatal(err)
		}
		if got, want := events.Between(), i+1 == first || i+1 == len(whole); got != want {
			t.Errorf("after %d bytes of %d and %d: %v, want %v", i+1, first, len(whole), got, want)
		}
	}
}
