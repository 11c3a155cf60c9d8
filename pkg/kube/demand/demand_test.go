package demand

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	gateways  = schema.GroupVersionResource{Group: "g", Version: "v1", Resource: "gateways"}
	ingresses = schema.GroupVersionResource{Group: "n", Version: "v1", Resource: "ingresses"}
)

func object(name, class string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, Labels: map[string]string{"class": class}}}
}

// part is something that demand starts and stops.
type part struct{ running, starts int }

func (p *part) run(ctx context.Context) error {
	p.running++
	p.starts++
	<-ctx.Done()
	p.running--
	return ctx.Err()
}

func do(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func TestRunsWhileAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCounter(func(m *metav1.PartialObjectMetadata) bool { return m.Labels["class"] == "ours" })
		ctx, stop := context.WithCancel(t.Context())
		var p part
		ended := make(chan error, 1)
		o := Options{Linger: time.Minute, Logger: slog.New(slog.DiscardHandler)}
		go func() { ended <- c.while(ctx, o, p.run) }()
		g, i := c.source(gateways), c.source(ingresses)

		want := func(when string, running, starts int) {
			t.Helper()
			synctest.Wait()
			if p.running != running || p.starts != starts {
				t.Fatalf("%s: running %d, started %d times; want %d, %d", when, p.running, p.starts, running, starts)
			}
		}
		do(t, g.Add(object("x", "theirs")), i.Replace([]any{object("y", "theirs")}, "1"))
		want("only others' objects", 0, 0)
		do(t, i.Add(object("z", "ours")), g.Update(object("x", "ours")))
		want("two objects", 1, 1)
		do(t, i.Delete(object("z", "ours")))
		want("one is left", 1, 1)
		do(t, g.Update(object("x", "theirs")))
		want("the last has another class, linger", 1, 1)
		time.Sleep(50 * time.Second)
		do(t, i.Replace([]any{object("z", "ours"), object("w", "ours")}, "2"))
		time.Sleep(5 * time.Minute)
		want("asked for again in time", 1, 1)
		do(t, i.Replace(nil, "3"))
		time.Sleep(61 * time.Second)
		want("all gone", 0, 1)
		do(t, g.Add(object("n", "ours")))
		want("and again", 1, 2)
		stop()
		if err := <-ended; err != nil || p.running != 0 {
			t.Fatalf("at the end: %v, running %d", err, p.running)
		}
	})
}

func TestEndedPartIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("port in use")
		c := newCounter(nil)
		do(t, c.source(gateways).Add(object("x", "")))
		err := c.while(t.Context(), Options{Logger: slog.New(slog.DiscardHandler)}, func(context.Context) error { return broken })
		if !errors.Is(err, broken) || !errors.Is(err, ErrEnded) {
			t.Fatalf("got %v", err)
		}
	})
}
