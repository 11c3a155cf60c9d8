// Package demand runs a part of skiff only while the cluster has an object that
// asks for it, so that what nobody uses costs one watch and no memory. It must
// not know what the part does. Start reading at While.
package demand

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// Options say what demand is.
type Options struct {
	// Config is how to reach the API; who that is must be allowed to list and
	// watch the resources.
	Config *rest.Config
	// Resources are the kinds whose objects are demand. One whose definition is
	// missing counts as having no objects, and is looked for again.
	Resources []schema.GroupVersionResource
	// Match reports whether an object counts. Nil means that every one does.
	Match func(*metav1.PartialObjectMetadata) bool
	// Linger is how long the part keeps running after the last object went, so
	// that replacing an object does not restart it.
	Linger time.Duration
	// Logger may be nil.
	Logger *slog.Logger
}

// ErrEnded is part of the error that While returns when run ended although it
// was still wanted.
var ErrEnded = errors.New("ended while it was still asked for")

// While calls run whenever there are objects that ask for it, and cancels its
// context when the last one has gone; run must then return. While itself
// returns nil when ctx ends, after run has returned, and an error when run
// returns by itself.
func While(ctx context.Context, o Options, run func(context.Context) error) error {
	client, err := metadata.NewForConfig(metadata.ConfigFor(o.Config))
	if err != nil {
		return fmt.Errorf("make metadata client: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := newCounter(o.Match)
	ctx, stop := context.WithCancel(klog.NewContext(ctx, klog.Background()))
	watches := make(chan struct{})
	for _, resource := range o.Resources {
		store := c.source(resource)
		go func() {
			defer func() { watches <- struct{}{} }()
			reflect(ctx, client.Resource(resource), resource, store)
		}()
	}
	err = c.while(ctx, o, run)
	stop()
	for range o.Resources {
		<-watches
	}
	return err
}

// while is While with the counting already under way.
func (c *counter) while(ctx context.Context, o Options, run func(context.Context) error) error {
	for {
		if !c.wait(ctx, true) {
			return nil
		}
		o.Logger.Debug("asked for, starting")
		err := c.during(ctx, o.Linger, run)
		if ctx.Err() != nil {
			// The error, if any, is about being stopped.
			return nil
		}
		if err != nil {
			return err
		}
		o.Logger.Debug("nothing asks for it any more, stopped")
	}
}

// during calls run until nothing has asked for it for the time of linger.
func (c *counter) during(ctx context.Context, linger time.Duration, run func(context.Context) error) error {
	inner, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- run(inner) }()
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		c.waitIdle(inner, linger)
	}()
	select {
	case err := <-ended:
		stop()
		<-idle
		if err == nil {
			return ErrEnded
		}
		return fmt.Errorf("%w: %w", ErrEnded, err)
	case <-idle:
		stop()
		<-ended // about being stopped, of no use to anybody
		return nil
	}
}
