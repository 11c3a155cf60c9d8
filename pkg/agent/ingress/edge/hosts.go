package edge

import (
	"net"
	"strings"
)

// hosts finds values by host name, the most specific first: exact, the longest wildcard, any.
type hosts[T any] struct {
	exact map[string]T
	// wild and single are keyed by what follows the "*": ".example.com". single stands for one label.
	wild, single map[string]T
	all          T
	hasAll       bool
}

// slot is where a name is kept, for its value to be read and written.
func (h *hosts[T]) update(name string, oneLabel bool, change func(T) T) {
	name = canonicalHost(name)
	suffix, isWild := strings.CutPrefix(name, "*")
	switch {
	case name == "" || name == "*":
		h.all, h.hasAll = change(h.all), true
	case isWild && oneLabel:
		put(&h.single, suffix, change)
	case isWild:
		put(&h.wild, suffix, change)
	default:
		put(&h.exact, name, change)
	}
}

func put[T any](m *map[string]T, key string, change func(T) T) {
	if *m == nil {
		*m = map[string]T{}
	}
	(*m)[key] = change((*m)[key])
}

// find calls try with the value of each name that fits a canonical host until it says true.
func (h *hosts[T]) find(host string, try func(T) bool) bool {
	if v, ok := h.exact[host]; ok && try(v) {
		return true
	}
	if len(h.wild)+len(h.single) > 0 {
		first := true
		for i := 1; i < len(host); i++ {
			if host[i] != '.' {
				continue
			}
			if v, ok := h.single[host[i:]]; ok && first && try(v) {
				return true
			}
			first = false
			if v, ok := h.wild[host[i:]]; ok && try(v) {
				return true
			}
		}
	}
	return h.hasAll && try(h.all)
}

// first is the value of the most specific name.
func (h *hosts[T]) first(host string) (found T, ok bool) {
	ok = h.find(host, func(v T) bool { found = v; return true })
	return found, ok
}

// canonicalHost is a Host header or server name in lower case, without port and final dot.
func canonicalHost(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// validHost says whether a Host header has only what a host and port are made of.
func validHost(host string) bool {
	for i := range len(host) {
		c := host[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', 'A' <= c && c <= 'Z', strings.IndexByte(".-_:[]%~!$&'()*+,;=", c) >= 0:
		default:
			return false
		}
	}
	return host != ""
}

// each calls do with every value.
func (h *hosts[T]) each(do func(T)) {
	for _, m := range []map[string]T{h.exact, h.wild, h.single} {
		for _, v := range m {
			do(v)
		}
	}
	if h.hasAll {
		do(h.all)
	}
}
