package lb

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/internal/pause"
	"skiff/internal/signal"
)

// settle is how long the addresses of the API must be left alone before they
// are believed: servers come and go one by one.
const settle = 2 * time.Second

// watch sends the addresses at which the API servers of the cluster say they
// are, whenever there are others.
func (b *Balancer) watch(ctx context.Context, to chan<- []string) {
	if b.o.Kubeconfig == "" {
		return
	}
	store, events, run, err := b.endpoints()
	if err != nil {
		b.o.Logger.Warn("new servers will be known an hour later than they could be", "error", err)
		return
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { run(ctx) })
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
		}
		if !pause.Quiet(ctx, events, settle) {
			return
		}
		select {
		case to <- addresses(store.List()):
		case <-ctx.Done():
			return
		}
	}
}

// endpoints makes an informer of the EndpointSlices of the Service kubernetes.
func (b *Balancer) endpoints() (store cache.Store, events <-chan struct{}, run func(context.Context), err error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", b.o.Kubeconfig)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("make client to watch the servers' addresses: %w", err)
	}
	if b.o.Wrap != nil {
		cfg.Wrap(b.o.Wrap)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("make client to watch the servers' addresses: %w", err)
	}
	changed := signal.New()
	source := cache.NewFilteredListWatchFromClient(client.DiscoveryV1().RESTClient(), "endpointslices", metav1.NamespaceDefault,
		func(o *metav1.ListOptions) { o.LabelSelector = discoveryv1.LabelServiceName + "=kubernetes" })
	store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: plain{source},
		ObjectType:    &discoveryv1.EndpointSlice{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { changed.Send() },
			UpdateFunc: func(_, _ any) { changed.Send() },
			DeleteFunc: func(any) { changed.Send() },
		},
	})
	return store, changed, informer.RunWithContext, nil
}

// plain is a list and a watch instead of a watch that begins with a list, which
// the server would send a line every minute.
type plain struct{ cache.ListerWatcher }

// IsWatchListSemanticsUnSupported is what client-go asks for.
func (plain) IsWatchListSemanticsUnSupported() bool { return true }

// addresses are the ready endpoints of the slices, in a fixed order.
func addresses(list []any) []string {
	var out []string
	for _, obj := range list {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		for _, port := range slice.Ports {
			if port.Port == nil || port.Name == nil || *port.Name != "https" {
				continue
			}
			for _, e := range slice.Endpoints {
				if e.Conditions.Ready != nil && !*e.Conditions.Ready {
					continue
				}
				for _, a := range e.Addresses {
					out = append(out, net.JoinHostPort(a, strconv.Itoa(int(*port.Port))))
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
