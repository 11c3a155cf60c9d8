package edge

import (
	"net/http"
	"path"
	"strings"
)

// withoutDots resolves "." and ".." in the path: a backend would, and then a route that protects one path would be gone around by another.
func withoutDots(r *http.Request) *http.Request {
	dots := false
	for element := range strings.SplitSeq(r.URL.Path, "/") {
		dots = dots || element == "." || element == ".."
	}
	if !dots {
		return r
	}
	clean := path.Clean("/" + r.URL.Path)
	if clean != "/" && (strings.HasSuffix(r.URL.Path, "/") || strings.HasSuffix(r.URL.Path, "/.") || strings.HasSuffix(r.URL.Path, "/..")) {
		clean += "/"
	}
	out := new(http.Request)
	*out = *r
	u := *r.URL
	u.Path, u.RawPath = clean, ""
	out.URL, out.RequestURI = &u, ""
	return out
}
