package backoff

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSequence(t *testing.T) {
	s := Sequence{Min: time.Second, Max: 5 * time.Second}
	var got []time.Duration
	for range 5 {
		got = append(got, s.Next())
	}
	s.Reset()
	got = append(got, s.Next())
	want := []time.Duration{1e9, 2e9, 4e9, 5e9, 5e9, 1e9}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Sequence{Min: time.Minute}
		begin := time.Now()
		if err := s.Wait(t.Context()); err != nil || time.Since(begin) != time.Minute {
			t.Errorf("Wait returned %v after %v", err, time.Since(begin))
		}
		errEnough := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errEnough)
		if err := s.Wait(ctx); !errors.Is(err, errEnough) {
			t.Errorf("Wait returned %v, want the cause", err)
		}
	})
}
