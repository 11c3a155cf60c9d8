package gateway

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	v1 "sigs.k8s.io/gateway-api/apis/v1"
)

// outcome is a translation together with what came of it in the edge.
type outcome struct {
	*world
	failed    map[string]error // by listener
	routeErrs map[string]error // by route
}

// conditions are the conditions of one object. Those of types that nobody sets
// here are kept as they are.
type conditions struct {
	list       *[]metav1.Condition
	generation int64
}

// set sets a condition of the type to the verdict, with good as the reason and
// what to say if it is one.
func (c conditions) set(kind string, v verdict, good, message string) {
	now := metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: good, Message: message, ObservedGeneration: c.generation}
	if !v.ok() {
		now.Status, now.Reason, now.Message = metav1.ConditionFalse, v.reason, v.message
	}
	meta.SetStatusCondition(c.list, now)
}

// problem sets a condition that is true when something is wrong.
func (c conditions) problem(kind string, v verdict, good string) {
	now := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: good, ObservedGeneration: c.generation}
	if !v.ok() {
		now.Status, now.Reason, now.Message = metav1.ConditionTrue, v.reason, v.message
	}
	meta.SetStatusCondition(c.list, now)
}

func (c conditions) remove(kind string) { meta.RemoveStatusCondition(c.list, kind) }

// programmed is whether the listener serves: the edge says so.
func (o outcome) programmed(l *listener) verdict {
	var v verdict
	switch err := o.failed[l.name]; {
	case !l.conflicted.ok():
		v = l.conflicted
	case !l.accepted.ok():
		v.fail(string(v1.ListenerReasonInvalid), "%s", l.accepted.message)
	case err != nil:
		v.fail(string(v1.ListenerReasonInvalid), "%v", err)
	case !l.serves():
		why := l.resolved.message
		if why == "" {
			why = "the Gateway or ListenerSet is not accepted"
		}
		v.fail(string(v1.ListenerReasonInvalid), "%s", why)
	}
	return v
}

// listenerConditions sets the conditions of a listener.
func (o outcome) listenerConditions(c conditions, l *listener) {
	accepted := l.accepted
	if err := o.failed[l.name]; err != nil {
		accepted.fail(string(v1.ListenerReasonPortUnavailable), "%v", err)
	}
	c.set(string(v1.ListenerConditionAccepted), accepted, string(v1.ListenerReasonAccepted), "")
	c.set(string(v1.ListenerConditionProgrammed), o.programmed(l), string(v1.ListenerReasonProgrammed), "")
	c.set(string(v1.ListenerConditionResolvedRefs), l.resolved, string(v1.ListenerReasonResolvedRefs), "")
	c.problem(string(v1.ListenerConditionConflicted), l.conflicted, string(v1.ListenerReasonNoConflicts))
}

// serving counts the listeners that serve.
func (o outcome) serving(listeners []*listener) int {
	n := 0
	for _, l := range listeners {
		if v := o.programmed(l); v.ok() {
			n++
		}
	}
	return n
}

func (o outcome) setGateway(g *gateway, status *v1.GatewayStatus) {
	status.Addresses = g.addresses
	c := conditions{&status.Conditions, g.object.Generation}
	reason, message := string(v1.GatewayReasonAccepted), ""
	if wrong := complaints(g.own); wrong != "" {
		reason, message = string(v1.GatewayReasonListenersNotValid), "not all listeners can be used: "+wrong
	}
	c.set(string(v1.GatewayConditionAccepted), g.accepted, reason, message)
	programmed := g.address
	if !g.accepted.ok() {
		programmed = verdict{string(v1.GatewayReasonInvalid), g.accepted.message}
	} else if o.serving(g.all) == 0 {
		programmed.fail(string(v1.GatewayReasonInvalid), "no listener is served")
	}
	c.set(string(v1.GatewayConditionProgrammed), programmed, string(v1.GatewayReasonProgrammed), "")
	resolved := g.resolved
	for _, l := range g.own {
		if !l.resolved.ok() {
			resolved.fail(string(v1.GatewayReasonListenersNotResolved), "listener %s: %s", l.spec.Name, l.resolved.message)
		}
	}
	c.set(string(v1.GatewayConditionResolvedRefs), resolved, string(v1.GatewayReasonResolvedRefs), "")
	if g.insecure != "" {
		c.problem(string(v1.GatewayConditionInsecureFrontendValidationMode), verdict{string(v1.GatewayReasonConfigurationChanged), g.insecure}, "")
	} else {
		c.remove(string(v1.GatewayConditionInsecureFrontendValidationMode))
	}
	before := status.Listeners
	status.Listeners = nil
	for _, l := range g.own {
		s := v1.ListenerStatus{Name: l.spec.Name, SupportedKinds: l.kinds, AttachedRoutes: l.attached}
		if i := slices.IndexFunc(before, func(s v1.ListenerStatus) bool { return s.Name == l.spec.Name }); i >= 0 {
			s.Conditions = before[i].Conditions
		}
		o.listenerConditions(conditions{&s.Conditions, g.object.Generation}, l)
		status.Listeners = append(status.Listeners, s)
	}
	var sets int32
	for _, s := range o.sets {
		if s.gateway == g && s.accepted.ok() {
			sets++
		}
	}
	if sets > 0 || status.AttachedListenerSets != nil {
		status.AttachedListenerSets = &sets
	}
}

func (o outcome) setListenerSet(s *set, status *v1.ListenerSetStatus) {
	c := conditions{&status.Conditions, s.object.Generation}
	reason, message := string(v1.ListenerSetReasonAccepted), ""
	if wrong := complaints(s.listeners); wrong != "" {
		reason, message = string(v1.ListenerSetReasonListenersNotValid), "not all listeners can be used: "+wrong
	}
	c.set(string(v1.ListenerSetConditionAccepted), s.accepted, reason, message)
	programmed := s.accepted
	if o.serving(s.listeners) == 0 {
		programmed.fail(string(v1.ListenerSetReasonInvalid), "no listener is served")
	}
	c.set(string(v1.ListenerSetConditionProgrammed), programmed, string(v1.ListenerSetReasonProgrammed), "")
	before := status.Listeners
	status.Listeners = nil
	for _, l := range s.listeners {
		e := v1.ListenerEntryStatus{Name: l.spec.Name, SupportedKinds: l.kinds, AttachedRoutes: l.attached}
		if i := slices.IndexFunc(before, func(e v1.ListenerEntryStatus) bool { return e.Name == l.spec.Name }); i >= 0 {
			e.Conditions = before[i].Conditions
		}
		o.listenerConditions(conditions{&e.Conditions, s.object.Generation}, l)
		status.Listeners = append(status.Listeners, e)
	}
}

// setRoute sets our entries of a route's parents and keeps those of others.
func (o outcome) setRoute(r *route, status *v1.RouteStatus) {
	before := status.Parents
	status.Parents = slices.DeleteFunc(slices.Clone(before), func(p v1.RouteParentStatus) bool { return p.ControllerName == Controller })
	if status.Parents == nil {
		status.Parents = []v1.RouteParentStatus{}
	}
	for _, p := range r.parents {
		s := v1.RouteParentStatus{ParentRef: p.ref, ControllerName: Controller}
		for _, old := range before {
			if old.ControllerName == Controller && equality.Semantic.DeepEqual(old.ParentRef, p.ref) {
				s.Conditions = old.Conditions
			}
		}
		c := conditions{&s.Conditions, r.meta.Generation}
		accepted, partial := p.accepted, p.built.partial
		if err := o.routeErrs[r.name()]; err != nil {
			if len(p.built.routes) > 1 {
				partial.fail(string(v1.RouteReasonUnsupportedValue), "%v", err)
			} else {
				accepted.fail(string(v1.RouteReasonUnsupportedValue), "%v", err)
			}
		}
		c.set(string(v1.RouteConditionAccepted), accepted, string(v1.RouteReasonAccepted), "")
		c.set(string(v1.RouteConditionResolvedRefs), p.built.resolved, string(v1.RouteReasonResolvedRefs), "")
		if partial.ok() {
			c.remove(string(v1.RouteConditionPartiallyInvalid))
		} else {
			c.problem(string(v1.RouteConditionPartiallyInvalid), partial, "")
		}
		status.Parents = append(status.Parents, s)
	}
}

// maxAncestors is how many a policy's status has room for.
const maxAncestors = 16

func (o outcome) setPolicy(p *policy, status *v1.PolicyStatus) {
	before := status.Ancestors
	status.Ancestors = slices.DeleteFunc(slices.Clone(before), func(a v1.PolicyAncestorStatus) bool { return a.ControllerName == Controller })
	if status.Ancestors == nil {
		status.Ancestors = []v1.PolicyAncestorStatus{}
	}
	for _, g := range p.ancestors {
		if len(status.Ancestors) == maxAncestors {
			return
		}
		group, kind, namespace := v1.Group(v1.GroupName), v1.Kind("Gateway"), v1.Namespace(g.object.Namespace)
		a := v1.PolicyAncestorStatus{
			AncestorRef:    v1.ParentReference{Group: &group, Kind: &kind, Namespace: &namespace, Name: v1.ObjectName(g.object.Name)},
			ControllerName: Controller,
		}
		for _, old := range before {
			if old.ControllerName == Controller && equality.Semantic.DeepEqual(old.AncestorRef, a.AncestorRef) {
				a.Conditions = old.Conditions
			}
		}
		c := conditions{&a.Conditions, p.object.Generation}
		c.set(string(v1.PolicyConditionAccepted), p.accepted, string(v1.PolicyReasonAccepted), "")
		c.set(string(v1.BackendTLSPolicyConditionResolvedRefs), p.resolved, string(v1.BackendTLSPolicyReasonResolvedRefs), "")
		status.Ancestors = append(status.Ancestors, a)
	}
}

func describe(kind string, o metav1.Object) string {
	if o.GetNamespace() == "" {
		return kind + " " + o.GetName()
	}
	return kind + " " + key(o).String()
}
