package edge

import (
	"net/http"
	"net/url"
	"slices"
)

// rule is one match of a route.
type rule struct {
	matcher
	route *route
}

// rules are all matches of a host. Exact paths are found by hash; the others are tried in the order of precedence.
type rules struct {
	exact map[string][]*rule
	other []*rule
}

// router finds the route of a request within a listener.
type router struct {
	hosts    hosts[*rules]
	fallback *route
}

func (rt *router) add(host VirtualHost, routes []*route) {
	names := host.Hosts
	if len(names) == 0 {
		names = []string{""}
	}
	for _, name := range names {
		rt.hosts.update(name, host.WildcardOneLabel, func(rs *rules) *rules {
			if rs == nil {
				rs = &rules{exact: map[string][]*rule{}}
			}
			for _, r := range routes {
				rs.add(r)
			}
			return rs
		})
	}
}

func (rs *rules) add(r *route) {
	for _, m := range r.matches {
		e := &rule{matcher: m, route: r}
		if m.kind == PathExact {
			rs.exact[m.path] = append(rs.exact[m.path], e)
			continue
		}
		rs.other = append(rs.other, e)
	}
}

// sort is called once, when all is added.
func (rt *router) sort() {
	order := func(l []*rule) {
		slices.SortStableFunc(l, func(a, b *rule) int { return a.compare(&b.matcher) })
	}
	one := func(rs *rules) {
		for _, l := range rs.exact {
			order(l)
		}
		order(rs.other)
	}
	for _, m := range []map[string]*rules{rt.hosts.exact, rt.hosts.wild, rt.hosts.single} {
		for _, rs := range m {
			one(rs)
		}
	}
	if rt.hosts.hasAll {
		one(rt.hosts.all)
	}
}

// find is the route of a request to a canonical host, with the match that chose it (nil for the fallback).
func (rt *router) find(host string, r *http.Request) (*route, *matcher) {
	var hit *rule
	var query url.Values
	rt.hosts.find(host, func(rs *rules) bool {
		hit = rs.find(r, &query)
		return hit != nil
	})
	if hit != nil {
		return hit.route, &hit.matcher
	}
	return rt.fallback, nil
}

func (rs *rules) find(r *http.Request, query *url.Values) *rule {
	path := r.URL.Path
	for _, e := range rs.exact[path] {
		if e.fitsRest(r, query) {
			return e
		}
	}
	for _, e := range rs.other {
		if e.fitsPath(path) && e.fitsRest(r, query) {
			return e
		}
	}
	return nil
}
