package gateway

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"skiff/pkg/agent/ingress/edge"
)

// makeListener judges a listener by itself.
func (w *world) makeListener(g *gateway, s *set, spec v1.Listener) *listener {
	l := &listener{gateway: g, set: s, spec: spec}
	owner, kind := key(g.object), "gateway"
	if s != nil {
		owner, kind = key(s.object), "listenerset"
	}
	l.name = fmt.Sprintf("%s/%s/%s", kind, owner, spec.Name)
	l.chooseProtocol()
	l.chooseKinds()
	l.edge = edge.Listener{Name: l.name, Port: uint16(spec.Port), Protocol: l.protocol, Hostname: strings.ToLower(l.hostname())}
	if !l.accepted.ok() {
		return l
	}
	if l.protocol == edge.HTTPS || l.protocol == edge.TLSTerminate {
		w.resolveCertificates(l)
	}
	if l.protocol == edge.HTTPS {
		w.resolveClientValidation(l)
	}
	return l
}

func (l *listener) namespace() string {
	if l.set != nil {
		return l.set.object.Namespace
	}
	return l.gateway.object.Namespace
}

// reference is who refers to the Secrets of the listener.
func (l *listener) reference() reference {
	kind := v1.Kind("Gateway")
	if l.set != nil {
		kind = "ListenerSet"
	}
	return reference{group: v1.GroupName, kind: kind, namespace: l.namespace()}
}

func (l *listener) chooseProtocol() {
	mode := v1.TLSModeTerminate
	if l.spec.TLS != nil {
		mode = or(l.spec.TLS.Mode, mode)
	}
	switch l.spec.Protocol {
	case v1.HTTPProtocolType:
		l.protocol = edge.HTTP
	case v1.HTTPSProtocolType:
		l.protocol = edge.HTTPS
		if mode != v1.TLSModeTerminate {
			l.accepted.fail(string(v1.ListenerReasonUnsupportedValue), "tls.mode %s: a listener of protocol HTTPS ends TLS; use protocol TLS to pass it through", mode)
		}
	case v1.TLSProtocolType:
		l.protocol = edge.TLSTerminate
		if mode == v1.TLSModePassthrough {
			l.protocol = edge.TLSPassthrough
		}
	case v1.TCPProtocolType:
		l.protocol = edge.TCP
	default:
		l.accepted.fail(string(v1.ListenerReasonUnsupportedProtocol), "protocol %s is not supported, use HTTP, HTTPS, TLS or TCP", l.spec.Protocol)
	}
}

// chooseKinds sets the kinds of routes that the protocol can have and the
// listener lets in.
func (l *listener) chooseKinds() {
	l.kinds = []v1.RouteGroupKind{}
	var possible []v1.Kind
	switch l.spec.Protocol {
	case v1.HTTPProtocolType, v1.HTTPSProtocolType:
		possible = []v1.Kind{"HTTPRoute", "GRPCRoute"}
	case v1.TLSProtocolType:
		possible = []v1.Kind{"TLSRoute"}
	case v1.TCPProtocolType:
		possible = []v1.Kind{"TCPRoute"}
	default:
		return
	}
	group := v1.Group(v1.GroupName)
	if l.spec.AllowedRoutes == nil || len(l.spec.AllowedRoutes.Kinds) == 0 {
		for _, k := range possible {
			l.kinds = append(l.kinds, v1.RouteGroupKind{Group: &group, Kind: k})
		}
		return
	}
	for _, k := range l.spec.AllowedRoutes.Kinds {
		if or(k.Group, group) == group && slices.Contains(possible, k.Kind) {
			l.kinds = append(l.kinds, v1.RouteGroupKind{Group: &group, Kind: k.Kind})
			continue
		}
		l.resolved.fail(string(v1.ListenerReasonInvalidRouteKinds), "allowedRoutes.kinds: a listener of protocol %s cannot have routes of kind %s", l.spec.Protocol, k.Kind)
	}
}

// family is what may share a socket.
func (l *listener) family() string {
	switch l.protocol {
	case edge.HTTP:
		return "HTTP"
	case edge.TCP:
		return "TCP"
	default:
		return "TLS"
	}
}

// clash says why two listeners cannot be told apart on their port, or "".
func clash(a, b *listener) v1.ListenerConditionReason {
	switch {
	case a.spec.Port != b.spec.Port:
		return ""
	case a.family() != b.family() || a.protocol == edge.TCP:
		return v1.ListenerReasonProtocolConflict
	case !strings.EqualFold(a.hostname(), b.hostname()):
		return ""
	case a.spec.Protocol != b.spec.Protocol:
		return v1.ListenerReasonProtocolConflict
	default:
		return v1.ListenerReasonHostnameConflict
	}
}

// resolveConflicts refuses listeners that cannot be told apart. Within a Gateway
// all of them lose. A ListenerSet loses to its Gateway and to older sets, and
// what cannot be merged with an older Gateway's listeners loses to them.
func (w *world) resolveConflicts() {
	for _, g := range w.gateways {
		for i, a := range g.own {
			for _, b := range g.own[i+1:] {
				a.conflict(b)
				b.conflict(a)
			}
		}
		for i, l := range g.all[len(g.own):] {
			for _, before := range g.all[:len(g.own)+i] {
				if before.set == nil || before.conflicted.ok() {
					l.conflict(before)
				}
			}
		}
	}
	var placed []*listener
	for _, g := range w.gateways {
		judgeListeners(g)
		if g.accepted.ok() {
			placed = append(placed, w.place(g, placed)...)
		}
		judgeListeners(g)
	}
	for _, s := range w.sets {
		judgeSet(s)
	}
}

// place finds the listeners of a Gateway that can be among those of older ones.
// If they cannot all be told apart the Gateway goes elsewhere as a whole, or,
// where it cannot, is merged as far as the edge can do that.
func (w *world) place(g *gateway, placed []*listener) (mine []*listener) {
	for _, l := range g.all {
		if !l.accepted.ok() {
			continue
		}
		for _, other := range placed {
			reason := clash(l, other)
			if reason != "" && w.in.Apart != nil {
				g.apart = true
				return nil
			}
			if reason == v1.ListenerReasonProtocolConflict || reason != "" && l.protocol != other.protocol {
				l.accepted.fail(string(v1.ListenerReasonPortUnavailable), "port %d is taken by %s (%s)", l.spec.Port, other.name, other.spec.Protocol)
			}
		}
		if l.accepted.ok() {
			mine = append(mine, l)
		}
	}
	return mine
}

// conflict notes that l loses to other, if they clash.
func (l *listener) conflict(other *listener) {
	reason := clash(l, other)
	if reason == "" || l.accepted.reason == string(v1.ListenerReasonUnsupportedProtocol) || other.accepted.reason == string(v1.ListenerReasonUnsupportedProtocol) {
		return
	}
	l.conflicted.fail(string(reason), "port %d and hostname %q cannot be told from those of %s", l.spec.Port, l.hostname(), other.name)
	if l.accepted.ok() {
		l.accepted = l.conflicted
	}
}

// judgeListeners refuses a Gateway none of whose listeners is any good.
func judgeListeners(g *gateway) {
	for _, l := range g.all {
		if l.accepted.ok() {
			return
		}
	}
	g.accepted.fail(string(v1.GatewayReasonListenersNotValid), "no listener can be accepted: %s", complaints(g.all))
}

func judgeSet(s *set) {
	if !s.accepted.ok() {
		return
	}
	if !s.gateway.accepted.ok() {
		s.accepted.fail(string(v1.ListenerSetReasonParentNotAccepted), "Gateway %s is not accepted: %s", key(s.gateway.object), s.gateway.accepted.message)
		return
	}
	for _, l := range s.listeners {
		if l.serves() {
			return
		}
	}
	s.accepted.fail(string(v1.ListenerSetReasonListenersNotValid), "no listener can be used: %s", complaints(s.listeners))
}

// complaints sums up what is wrong with listeners; empty if nothing is.
func complaints(listeners []*listener) string {
	var parts []string
	for _, l := range listeners {
		for _, v := range []verdict{l.accepted, l.resolved} {
			if !v.ok() {
				parts = append(parts, fmt.Sprintf("%s: %s", l.spec.Name, v.message))
				break
			}
		}
	}
	return strings.Join(parts, "; ")
}

// certificates of the listener; those that cannot be had are complained about.
func (w *world) resolveCertificates(l *listener) {
	if l.spec.TLS == nil || len(l.spec.TLS.CertificateRefs) == 0 {
		l.resolved.fail(string(v1.ListenerReasonInvalidCertificateRef), "tls.certificateRefs is empty: name a Secret of type kubernetes.io/tls")
		return
	}
	for _, ref := range l.spec.TLS.CertificateRefs {
		if c := w.certificate(l.reference(), ref, &l.resolved, string(v1.ListenerReasonInvalidCertificateRef)); c != nil {
			l.edge.Certificates = append(l.edge.Certificates, c)
		}
	}
}

// resolveClientValidation sets what the Gateway asks of clients on the port.
func (w *world) resolveClientValidation(l *listener) {
	t := l.gateway.object.Spec.TLS
	if t == nil || t.Frontend == nil {
		return
	}
	validation := t.Frontend.Default.Validation
	for _, p := range t.Frontend.PerPort {
		if p.Port == l.spec.Port {
			validation = p.TLS.Validation
		}
	}
	if validation == nil {
		return
	}
	if validation.Mode == v1.AllowInsecureFallback {
		l.edge.ClientCertOptional = true
		l.gateway.insecure = fmt.Sprintf("clients of port %d are let in without a valid certificate, since tls.frontend says %s", l.spec.Port, v1.AllowInsecureFallback)
	}
	from := reference{group: v1.GroupName, kind: "Gateway", namespace: l.gateway.object.Namespace}
	for _, ref := range validation.CACertificateRefs {
		if ref.Group != "" || ref.Kind != "ConfigMap" {
			l.resolved.fail(string(v1.ListenerReasonInvalidCACertificateKind), "caCertificateRefs: %s is not supported, use a ConfigMap", ref.Kind)
			continue
		}
		name := types.NamespacedName{Namespace: string(or(ref.Namespace, v1.Namespace(from.namespace))), Name: string(ref.Name)}
		if !w.granted(from, "ConfigMap", name) {
			l.resolved.fail(string(v1.ListenerReasonRefNotPermitted), "caCertificateRefs: no ReferenceGrant in %s lets Gateways of %s use ConfigMap %s", name.Namespace, from.namespace, name.Name)
			continue
		}
		if err := w.authorities(name, &l.edge.ClientCAs, nil); err != nil {
			l.resolved.fail(string(v1.ListenerReasonInvalidCACertificateRef), "caCertificateRefs: %v", err)
		}
	}
	if l.edge.ClientCAs == nil {
		l.accepted.fail(string(v1.ListenerReasonNoValidCACertificate), "none of the caCertificateRefs can be used: %s", l.resolved.message)
	}
}
