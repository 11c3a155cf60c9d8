package ingress

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestReachGivesUp waits for a port that is nowhere.
func TestReachGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, start := newReach(), time.Now()
		if r.wait(t.Context()) {
			t.Error("a port without an address answers")
		}
		if took := time.Since(start); took != reachPatience {
			t.Errorf("gave up after %s", took)
		}
	})
}
