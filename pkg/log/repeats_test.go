package log

import (
	"fmt"
	"testing"
	"time"
)

func TestRepeats(t *testing.T) {
	var r repeats
	begin := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	written := 0
	for i := range 100 { // ten a second
		ok, left := r.take("not yet", begin.Add(time.Duration(i)*100*time.Millisecond))
		if left != 0 {
			t.Errorf("line %d: %d left out before it", i, left)
		}
		if ok {
			written++
		}
	}
	if written != repeatMost {
		t.Errorf("%d of 100 lines are written, want %d", written, repeatMost)
	}
	if ok, _ := r.take("something else", begin.Add(time.Second)); !ok {
		t.Error("another line is left out")
	}
	if ok, left := r.take("not yet", begin.Add(repeatWindow)); !ok || left != 100-repeatMost {
		t.Errorf("the first line of the next window: written %v, after %d that were not", ok, left)
	}
	if ok, left := r.take("not yet", begin); !ok || left != 0 { // the clock was set back
		t.Errorf("with a clock set back: written %v, after %d", ok, left)
	}
	for i := range 3 * repeatKept {
		if ok, _ := r.take(fmt.Sprint("line ", i), begin); !ok {
			t.Fatalf("new line %d is left out", i)
		}
	}
	if len(r.seen) > repeatKept {
		t.Errorf("%d messages are kept, want at most %d", len(r.seen), repeatKept)
	}
}
