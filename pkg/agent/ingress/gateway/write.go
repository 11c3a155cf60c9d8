package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	v1 "sigs.k8s.io/gateway-api/apis/v1"
)

// WriteStatus writes what a translation came to into the objects, where it is
// not there yet. Failed says of listeners of the edge, by name, why they do not
// serve; routeErrs says of routes of the edge why they are left out.
func (s *Source) WriteStatus(ctx context.Context, r Result, failed, routeErrs map[string]error) error {
	if r.world == nil {
		return nil
	}
	o := outcome{r.world, failed, routeErrs}
	var errs []error
	for _, g := range o.gateways {
		errs = append(errs, write(ctx, "Gateway", s.client.Gateways(g.object.Namespace), g.object, func(x *v1.Gateway) { o.setGateway(g, &x.Status) }))
	}
	for _, l := range o.sets {
		errs = append(errs, write(ctx, "ListenerSet", s.client.ListenerSets(l.object.Namespace), l.object, func(x *v1.ListenerSet) { o.setListenerSet(l, &x.Status) }))
	}
	errs = append(errs, s.writeRoutes(ctx, o)...)
	for _, p := range o.policies.all {
		ours := func(a v1.PolicyAncestorStatus) bool { return a.ControllerName == Controller }
		if len(p.ancestors) == 0 && !slices.ContainsFunc(p.object.Status.Ancestors, ours) {
			continue
		}
		errs = append(errs, write(ctx, "BackendTLSPolicy", s.client.BackendTLSPolicies(p.object.Namespace), p.object, func(x *v1.BackendTLSPolicy) { o.setPolicy(p, &x.Status) }))
	}
	return errors.Join(errs...)
}

func (s *Source) writeRoutes(ctx context.Context, o outcome) (errs []error) {
	byName := make(map[string]*route, len(o.routes))
	for _, r := range o.routes {
		byName[string(r.kind)+key(r.meta).String()] = r
	}
	// concerned reports whether the route's status is ours to write: it names
	// one of our Gateways, or did when it was written last.
	concerned := func(kind string, m *metav1.ObjectMeta, status v1.RouteStatus) *route {
		r := byName[kind+key(m).String()]
		if r == nil || m.DeletionTimestamp != nil || len(r.parents) == 0 && !slices.ContainsFunc(status.Parents, func(p v1.RouteParentStatus) bool { return p.ControllerName == Controller }) {
			return nil
		}
		return r
	}
	for _, x := range o.http {
		if r := concerned("HTTPRoute", &x.ObjectMeta, x.Status.RouteStatus); r != nil {
			errs = append(errs, write(ctx, "HTTPRoute", s.client.HTTPRoutes(x.Namespace), x, func(x *v1.HTTPRoute) { o.setRoute(r, &x.Status.RouteStatus) }))
		}
	}
	for _, x := range o.grpc {
		if r := concerned("GRPCRoute", &x.ObjectMeta, x.Status.RouteStatus); r != nil {
			errs = append(errs, write(ctx, "GRPCRoute", s.client.GRPCRoutes(x.Namespace), x, func(x *v1.GRPCRoute) { o.setRoute(r, &x.Status.RouteStatus) }))
		}
	}
	for _, x := range o.tls {
		if r := concerned("TLSRoute", &x.ObjectMeta, x.Status.RouteStatus); r != nil {
			errs = append(errs, write(ctx, "TLSRoute", s.client.TLSRoutes(x.Namespace), x, func(x *v1.TLSRoute) { o.setRoute(r, &x.Status.RouteStatus) }))
		}
	}
	for _, x := range o.tcp {
		if r := concerned("TCPRoute", &x.ObjectMeta, x.Status.RouteStatus); r != nil {
			errs = append(errs, write(ctx, "TCPRoute", s.client.TCPRoutes(x.Namespace), x, func(x *v1.TCPRoute) { o.setRoute(r, &x.Status.RouteStatus) }))
		}
	}
	return errs
}

type object[T any] interface {
	metav1.Object
	DeepCopy() T
}

type statusWriter[T any] interface {
	Get(context.Context, string, metav1.GetOptions) (T, error)
	UpdateStatus(context.Context, T, metav1.UpdateOptions) (T, error)
}

// tries bounds how often a write is begun anew because somebody else wrote.
const tries = 5

// write sets the status of an object. It does nothing where set changes nothing,
// where the object is gone, and where its spec is another by now: then it will be
// translated anew.
func write[T object[T]](ctx context.Context, kind string, client statusWriter[T], have T, set func(T)) error {
	seen := have
	for range tries {
		want := have.DeepCopy()
		set(want)
		if equality.Semantic.DeepEqual(have, want) {
			return nil
		}
		_, err := client.UpdateStatus(ctx, want, metav1.UpdateOptions{})
		if err == nil || apierrors.IsNotFound(err) {
			return nil
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("write status of %s: %w", describe(kind, seen), err)
		}
		have, err = client.Get(ctx, seen.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s to write its status: %w", describe(kind, seen), err)
		}
		if have.GetUID() != seen.GetUID() || have.GetGeneration() != seen.GetGeneration() {
			return nil
		}
		have.SetManagedFields(nil)
	}
	return fmt.Errorf("write status of %s: others wrote at the same time, %d times in a row", describe(kind, seen), tries)
}
