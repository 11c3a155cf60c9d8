package edge

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// filter is a compiled Filter.
type filter struct {
	Filter
	cors *corsRules
}

var errFilterEmpty = errors.New("filter with nothing in it")

func compileFilters(in []Filter) ([]filter, error) {
	var out []filter
	for _, f := range in {
		if err := errors.Join(checkEdit(f.RequestHeaders), checkEdit(f.ResponseHeaders)); err != nil {
			return nil, err
		}
		c := filter{Filter: canonicalFilter(f)}
		switch {
		case f.CORS != nil:
			c.cors = compileCORS(f.CORS)
		case f.Redirect != nil:
			if s := f.Redirect.Status; s != 0 && !slices.Contains([]int{301, 302, 303, 307, 308}, s) {
				return nil, fmt.Errorf("redirect with status %d", s)
			}
		case f.RequestHeaders == nil && f.ResponseHeaders == nil && f.Rewrite == nil && f.Mirror == nil:
			return nil, errFilterEmpty
		}
		out = append(out, c)
	}
	return out, nil
}

// checkEdit refuses what would break a head.
func checkEdit(e *HeaderEdit) error {
	if e == nil {
		return nil
	}
	for _, h := range slices.Concat(e.Set, e.Add) {
		if !httpguts.ValidHeaderFieldName(h.Name) || !validValue(h.Value) {
			return fmt.Errorf("header %q: %w", h.Name, errBadValue)
		}
	}
	return nil
}

// canonicalFilter has header names in the form in which http.Header keeps them.
func canonicalFilter(f Filter) Filter {
	edit := func(e *HeaderEdit) *HeaderEdit {
		if e == nil {
			return nil
		}
		c := &HeaderEdit{Set: slices.Clone(e.Set), Add: slices.Clone(e.Add), Remove: slices.Clone(e.Remove)}
		for _, l := range [][]Header{c.Set, c.Add} {
			for i := range l {
				l[i].Name = http.CanonicalHeaderKey(l[i].Name)
			}
		}
		for i := range c.Remove {
			c.Remove[i] = http.CanonicalHeaderKey(c.Remove[i])
		}
		return c
	}
	f.RequestHeaders, f.ResponseHeaders = edit(f.RequestHeaders), edit(f.ResponseHeaders)
	return f
}

func (e *HeaderEdit) apply(h http.Header) {
	for _, s := range e.Set {
		h[s.Name] = []string{s.Value}
	}
	for _, a := range e.Add {
		h[a.Name] = append(slices.Clip(h[a.Name]), a.Value)
	}
	for _, name := range e.Remove {
		delete(h, name)
	}
}

// applyRequest is apply for a request, whose Host is not among its headers.
func (e *HeaderEdit) applyRequest(r *http.Request) {
	e.apply(r.Header)
	if host, ok := r.Header["Host"]; ok {
		r.Host = host[len(host)-1]
		delete(r.Header, "Host")
	}
}

// path is the new path for a request that m matched.
func (e *PathEdit) path(old string, m *matcher) string {
	switch {
	case e.Kind == PathReplacePrefix && m != nil && m.kind != PathRegexp:
		rest := strings.TrimPrefix(strings.TrimPrefix(old, m.path), "/")
		base := strings.TrimSuffix(e.Value, "/")
		if rest == "" && base != "" && (m.path == "" || old == m.path) {
			return base
		}
		return base + "/" + rest
	case e.Kind == PathTemplate && m != nil && m.re != nil:
		groups := m.re.FindStringSubmatchIndex(old)
		if groups == nil {
			return e.Value
		}
		path := string(m.re.ExpandString(nil, e.Value, old, groups))
		if !strings.HasPrefix(path, "/") {
			path = "/" + path
		}
		return path
	}
	return e.Value
}

// apply rewrites the request for the backend.
func (rw *Rewrite) apply(r *http.Request, m *matcher) {
	if rw.Hostname != "" {
		r.Host = rw.Hostname
	}
	if rw.Path == nil {
		return
	}
	value, query, found := strings.Cut(rw.Path.path(r.URL.Path, m), "?")
	r.URL.Path, r.URL.RawPath = value, ""
	if found {
		r.URL.RawQuery = strings.Trim(query+"&"+r.URL.RawQuery, "&")
	}
	r.RequestURI = ""
}

// location is where a redirect sends a request that came by scheme to port.
func (rd *Redirect) location(r *http.Request, m *matcher, scheme string, port uint16) string {
	if rd.Location != "" {
		return rd.Location
	}
	u := url.URL{Scheme: scheme, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
	if rd.Scheme != "" {
		u.Scheme, port = rd.Scheme, 0
	}
	if rd.Port != 0 {
		port = rd.Port
	}
	host := rd.Hostname
	if host == "" {
		host = hostOnly(r.Host)
	}
	u.Host = withPort(host, u.Scheme, port)
	if rd.Path != nil {
		u.Path, u.RawPath = rd.Path.path(r.URL.Path, m), ""
	}
	return u.String()
}

// withPort writes the port only where the scheme does not say it.
func withPort(host, scheme string, port uint16) string {
	if port == 0 || scheme == "http" && port == 80 || scheme == "https" && port == 443 {
		return host
	}
	return host + ":" + strconv.Itoa(int(port))
}

// hostOnly is a Host header without its port; an IPv6 address keeps its brackets.
func hostOnly(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		return host[:i]
	}
	return host
}

// corsRules is a compiled CORS.
type corsRules struct {
	conf                     *CORS
	methods, headers, expose string
	age                      string
}

func compileCORS(c *CORS) *corsRules {
	age := 5
	if c.MaxAge > 0 {
		age = int(c.MaxAge.Seconds())
	}
	return &corsRules{
		conf: c, age: strconv.Itoa(age),
		methods: strings.Join(c.AllowMethods, ", "), headers: strings.Join(c.AllowHeaders, ", "), expose: strings.Join(c.ExposeHeaders, ", "),
	}
}

func (c *corsRules) allows(origin string) bool {
	for _, o := range c.conf.AllowOrigins {
		before, after, wild := strings.Cut(o, "*")
		switch {
		case o == "*" || strings.EqualFold(o, origin):
			return true
		case wild && len(origin) > len(before)+len(after) && strings.HasPrefix(origin, before) && strings.HasSuffix(origin, after):
			return true
		}
	}
	return false
}

// headersFor are what an answer to this origin carries. "*" does not go with credentials: then what was asked for is named.
func (c *corsRules) headersFor(r *http.Request, preflight bool) http.Header {
	origin := r.Header.Get("Origin")
	h := http.Header{}
	if origin == "" || !c.allows(origin) {
		return h
	}
	if slices.Contains(c.conf.AllowOrigins, "*") && !c.conf.AllowCredentials {
		h.Set("Access-Control-Allow-Origin", "*")
	} else {
		h.Set("Access-Control-Allow-Origin", origin)
		h.Add("Vary", "Origin")
	}
	if c.conf.AllowCredentials {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	set := func(name, value, asked string) {
		if value == "*" && c.conf.AllowCredentials {
			value = asked
		}
		if value != "" {
			h.Set(name, value)
		}
	}
	set("Access-Control-Expose-Headers", c.expose, "")
	if !preflight {
		return h
	}
	set("Access-Control-Allow-Methods", c.methods, r.Header.Get("Access-Control-Request-Method"))
	set("Access-Control-Allow-Headers", c.headers, r.Header.Get("Access-Control-Request-Headers"))
	h.Set("Access-Control-Max-Age", c.age)
	return h
}

func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}
