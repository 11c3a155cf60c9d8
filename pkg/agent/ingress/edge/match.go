package edge

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// GRPCMethod is the path match of a gRPC service and method; either may be empty. With regex both are expressions.
func GRPCMethod(service, method string, regex bool) PathMatch {
	switch {
	case !regex && service != "" && method != "":
		return PathMatch{Kind: PathExact, Value: "/" + service + "/" + method}
	case !regex && service != "":
		return PathMatch{Kind: PathPrefix, Value: "/" + service}
	case service == "" && method == "":
		return PathMatch{}
	}
	quote := func(s string) string {
		switch {
		case s == "":
			return "[^/]+"
		case regex:
			return "(?:" + s + ")"
		}
		return regexp.QuoteMeta(s)
	}
	return PathMatch{Kind: PathRegexp, Value: "/" + quote(service) + "/" + quote(method)}
}

// matcher is a compiled Match.
type matcher struct {
	kind    PathKind
	path    string
	re      *regexp.Regexp
	method  string
	headers []valueMatcher
	query   []valueMatcher
}

type valueMatcher struct {
	name, value string
	re          *regexp.Regexp
}

func compileMatch(m Match) (matcher, error) {
	c := matcher{kind: m.Path.Kind, path: m.Path.Value, method: m.Method}
	var err error
	switch m.Path.Kind {
	case PathRegexp:
		if c.re, err = wholeRegexp(m.Path.Value, m.Path.FoldCase); err != nil {
			return c, fmt.Errorf("compile path: %w", err)
		}
	case PathPrefix:
		c.path = strings.TrimRight(m.Path.Value, "/")
	}
	if c.headers, err = compileValues(m.Headers, http.CanonicalHeaderKey); err != nil {
		return c, fmt.Errorf("compile header match: %w", err)
	}
	if c.query, err = compileValues(m.Query, func(s string) string { return s }); err != nil {
		return c, fmt.Errorf("compile query match: %w", err)
	}
	return c, nil
}

func compileValues(in []ValueMatch, name func(string) string) ([]valueMatcher, error) {
	var out []valueMatcher
	for _, m := range in {
		v := valueMatcher{name: name(m.Name), value: m.Value}
		if m.Regexp {
			re, err := wholeRegexp(m.Value, false)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m.Name, err)
			}
			v.re = re
		}
		out = append(out, v)
	}
	return out, nil
}

func wholeRegexp(expr string, fold bool) (*regexp.Regexp, error) {
	flags := "^(?:"
	if fold {
		flags = "(?i)^(?:"
	}
	if _, err := regexp.Compile(expr); err != nil {
		return nil, err
	}
	return regexp.Compile(flags + expr + ")$")
}

func (v *valueMatcher) fits(value string) bool {
	if v.re != nil {
		return v.re.MatchString(value)
	}
	return v.value == value
}

func (m *matcher) fitsPath(path string) bool {
	switch m.kind {
	case PathExact:
		return m.path == path
	case PathRegexp:
		return m.re.MatchString(path)
	}
	return strings.HasPrefix(path, m.path) && (len(path) == len(m.path) || m.path == "" || path[len(m.path)] == '/')
}

// fitsRest compares all but the path. query is parsed when it is first needed and kept for the next matcher.
func (m *matcher) fitsRest(r *http.Request, query *url.Values) bool {
	if m.method != "" && m.method != r.Method {
		return false
	}
	for i := range m.headers {
		h := &m.headers[i]
		values, ok := r.Header[h.name]
		value := strings.Join(values, ",")
		if h.name == "Host" {
			value, ok = r.Host, true
		}
		if !ok || !h.fits(value) {
			return false
		}
	}
	if len(m.query) > 0 && *query == nil {
		*query = r.URL.Query()
	}
	for i := range m.query {
		q := &m.query[i]
		if values, ok := (*query)[q.name]; !ok || !q.fits(values[0]) {
			return false
		}
	}
	return true
}

// compare orders matchers by precedence, see Route.
func (m *matcher) compare(o *matcher) int {
	rank := func(k PathKind) int { return map[PathKind]int{PathExact: 0, PathRegexp: 1, PathPrefix: 2}[k] }
	given := func(method string) int { return min(len(method), 1) }
	return cmp.Or(
		cmp.Compare(rank(m.kind), rank(o.kind)),
		cmp.Compare(len(o.path), len(m.path)),
		cmp.Compare(given(o.method), given(m.method)),
		cmp.Compare(len(o.headers), len(m.headers)),
		cmp.Compare(len(o.query), len(m.query)),
	)
}
