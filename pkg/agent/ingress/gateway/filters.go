package gateway

import (
	"time"

	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"skiff/pkg/agent/ingress/edge"
)

// httpFilters translates filters. If one of them is not supported ok is false
// and what they are about must not be served.
func (b *builder) httpFilters(filters []v1.HTTPRouteFilter, rule string) (out []edge.Filter, ok bool) {
	ok = true
	for _, f := range filters {
		switch {
		case f.Type == v1.HTTPRouteFilterRequestHeaderModifier && f.RequestHeaderModifier != nil:
			out = append(out, edge.Filter{RequestHeaders: headerEdit(*f.RequestHeaderModifier)})
		case f.Type == v1.HTTPRouteFilterResponseHeaderModifier && f.ResponseHeaderModifier != nil:
			out = append(out, edge.Filter{ResponseHeaders: headerEdit(*f.ResponseHeaderModifier)})
		case f.Type == v1.HTTPRouteFilterRequestRedirect && f.RequestRedirect != nil:
			out = append(out, edge.Filter{Redirect: redirect(*f.RequestRedirect)})
		case f.Type == v1.HTTPRouteFilterURLRewrite && f.URLRewrite != nil:
			out = append(out, edge.Filter{Rewrite: &edge.Rewrite{Hostname: string(or(f.URLRewrite.Hostname, "")), Path: pathEdit(f.URLRewrite.Path)}})
		case f.Type == v1.HTTPRouteFilterRequestMirror && f.RequestMirror != nil:
			out = b.mirror(out, *f.RequestMirror, overHTTP)
		case f.Type == v1.HTTPRouteFilterCORS && f.CORS != nil:
			out = append(out, edge.Filter{CORS: cors(*f.CORS)})
		default:
			b.unsupported(rule, string(f.Type), f.ExtensionRef)
			ok = false
		}
	}
	return out, ok
}

// unsupported notes a filter that skiff does not have.
func (b *builder) unsupported(rule, filter string, ref *v1.LocalObjectReference) {
	if ref != nil {
		b.built.resolved.fail(string(v1.RouteReasonInvalidKind), "%s: filter %s: skiff knows no kind %s.%s", rule, filter, ref.Kind, ref.Group)
	}
	b.built.partial.fail(string(v1.RouteReasonUnsupportedValue), "%s: filter %s is not supported: its requests are answered with 500", rule, filter)
}

func headerEdit(f v1.HTTPHeaderFilter) *edge.HeaderEdit {
	out := &edge.HeaderEdit{Remove: f.Remove}
	for _, h := range f.Set {
		out.Set = append(out.Set, edge.Header{Name: string(h.Name), Value: h.Value})
	}
	for _, h := range f.Add {
		out.Add = append(out.Add, edge.Header{Name: string(h.Name), Value: h.Value})
	}
	return out
}

func redirect(f v1.HTTPRequestRedirectFilter) *edge.Redirect {
	return &edge.Redirect{
		Scheme: or(f.Scheme, ""), Hostname: string(or(f.Hostname, "")), Port: uint16(or(f.Port, 0)), Path: pathEdit(f.Path), Status: or(f.StatusCode, 302),
	}
}

func pathEdit(m *v1.HTTPPathModifier) *edge.PathEdit {
	switch {
	case m == nil:
		return nil
	case m.Type == v1.FullPathHTTPPathModifier:
		return &edge.PathEdit{Kind: edge.PathFull, Value: or(m.ReplaceFullPath, "/")}
	default:
		return &edge.PathEdit{Kind: edge.PathReplacePrefix, Value: or(m.ReplacePrefixMatch, "/")}
	}
}

// mirror adds a mirror, unless its backend cannot be had: what cannot be copied
// is served all the same.
func (b *builder) mirror(out []edge.Filter, f v1.HTTPRequestMirrorFilter, how reach) []edge.Filter {
	k := b.backend(f.BackendRef, how)
	if k == "" {
		return out
	}
	m := &edge.Mirror{Backend: k}
	switch {
	case f.Fraction != nil:
		m.Numerator, m.Denominator = int(f.Fraction.Numerator), int(or(f.Fraction.Denominator, 100))
	case f.Percent != nil:
		m.Numerator, m.Denominator = int(*f.Percent), 100
	}
	return append(out, edge.Filter{Mirror: m})
}

func cors(f v1.HTTPCORSFilter) *edge.CORS {
	out := &edge.CORS{AllowCredentials: or(f.AllowCredentials, false), MaxAge: time.Duration(f.MaxAge) * time.Second}
	for _, o := range f.AllowOrigins {
		out.AllowOrigins = append(out.AllowOrigins, string(o))
	}
	for _, m := range f.AllowMethods {
		out.AllowMethods = append(out.AllowMethods, string(m))
	}
	for _, h := range f.AllowHeaders {
		out.AllowHeaders = append(out.AllowHeaders, string(h))
	}
	for _, h := range f.ExposeHeaders {
		out.ExposeHeaders = append(out.ExposeHeaders, string(h))
	}
	return out
}
