package server

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"

	"k8s.io/client-go/rest"

	"skiff/pkg/component"
	"skiff/pkg/tunnel"
)

// Module is an optional part of a server. What it may do is Host and nothing
// else, so that it can be left out of a build.
type Module interface {
	// Name is a DNS label; it is the module's identity in logs and audit.
	Name() string
	// Install is called once, before anything runs.
	Install(h Host) error
}

// Host is what a Module may use of the server.
type Host interface {
	// Add adds a component that starts after the given points.
	Add(c component.Component, after ...Point)
	// Handle serves a pattern of http.ServeMux on the server's port. Who calls
	// has not been authenticated.
	Handle(pattern string, h http.Handler)
	// Tunnel returns a tunnel for peers of the module's own, which are apart from
	// the nodes whatever their names. The module Handles it at a path of its
	// choice; authorize says who connects.
	Tunnel(authorize func(*http.Request) (peer string, err error)) tunnel.Acceptor
	// Manifests adds bundled manifests: files at the root of fsys.
	Manifests(fsys fs.FS)
	// Client returns the configuration to call the API as the user
	// "skiff:module:<name>", whose rights are those that the module's manifests
	// grant. It fails before AfterAPI.
	Client() (*rest.Config, error)
	Logger() *slog.Logger
}

// Point is a moment of the start that a component can wait for.
type Point int

// The points.
const (
	AfterFront Point = iota + 1 // the port is served
	AfterAPI                    // the API answers
)

// host is the server as one module sees it.
type host struct {
	server *Server
	module Module
}

var _ Host = (*host)(nil)

// addition is a component of a module, kept until AddTo.
type addition struct {
	component component.Component
	after     []Point
}

func (a addition) addTo(g *component.Group, r Refs) {
	var deps []component.Ref
	if slices.Contains(a.after, AfterFront) {
		deps = append(deps, r.Front)
	}
	if slices.Contains(a.after, AfterAPI) {
		deps = append(deps, r.API)
	}
	// A module's failure must not take the cluster along.
	g.Add(a.component, component.After(deps...), component.Restart(component.Backoff{}))
}

// Add implements Host.
func (h *host) Add(c component.Component, after ...Point) {
	h.server.added = append(h.server.added, addition{c, after})
}

// Handle implements Host.
func (h *host) Handle(pattern string, handler http.Handler) { h.server.front.Handle(pattern, handler) }

// Tunnel implements Host.
func (h *host) Tunnel(authorize func(*http.Request) (string, error)) tunnel.Acceptor {
	t := &tunnel.Server{Authorize: authorize, Logger: h.Logger(), ID: "tunnel-" + h.module.Name()}
	h.server.tunnels = append(h.server.tunnels, t)
	return t
}

// Manifests implements Host.
func (h *host) Manifests(fsys fs.FS) { h.server.bundled = append(h.server.bundled, fsys) }

// Client implements Host.
func (h *host) Client() (*rest.Config, error) {
	if h.server.api == nil || h.server.api.Loopback() == nil {
		return nil, errors.New("kube-apiserver has not been built yet; start after AfterAPI")
	}
	c := h.server.api.Loopback()
	c.Impersonate = rest.ImpersonationConfig{UserName: "skiff:module:" + h.module.Name(), Groups: []string{"system:authenticated"}}
	return c, nil
}

// Logger implements Host.
func (h *host) Logger() *slog.Logger { return h.server.o.Logger.With("module", h.module.Name()) }

// unionFS shows the files of several file systems as one; the first that has a
// name wins.
type unionFS []fs.FS

func union(list []fs.FS) fs.FS {
	if len(list) == 1 {
		return list[0]
	}
	return unionFS(list)
}

// Open implements fs.FS.
func (u unionFS) Open(name string) (fs.File, error) {
	for _, f := range u {
		file, err := f.Open(name)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return file, err
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// ReadDir implements fs.ReadDirFS.
func (u unionFS) ReadDir(name string) ([]fs.DirEntry, error) {
	var all []fs.DirEntry
	var errs []error
	seen := make(map[string]bool)
	for _, f := range u {
		entries, err := fs.ReadDir(f, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, e := range entries {
			if !seen[e.Name()] {
				seen[e.Name()] = true
				all = append(all, e)
			}
		}
	}
	if len(errs) == len(u) {
		return nil, errors.Join(errs...)
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int {
		if a.Name() < b.Name() {
			return -1
		}
		return 1
	})
	return all, nil
}
