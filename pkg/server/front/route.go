package front

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"skiff/internal/ratelimit"
	"skiff/pkg/join"
)

// Access says who may call a route.
type Access struct {
	// Name is for people.
	Name string
	// Check refuses a caller, by an error of join.Refuse. It is nil where
	// everybody may call, and where the handler itself decides.
	Check func(*http.Request) error
}

// Route is one of the supervisor's paths. What it says is done before its
// handler is called, in the order of the fields.
type Route struct {
	// Path as in http.ServeMux: one that ends in "/" stands for all below it.
	Path    string
	Methods []string
	// Rate and Burst bound the requests of one remote (join.Remote): so many a
	// second, and so many at once after a pause.
	Rate  float64
	Burst int
	// InFlight bounds the requests of all remotes; 0 is for those that last.
	InFlight int
	Who      Access
	// Body is how much of a request's body is read; 0 for none.
	Body    int64
	Handler http.Handler
}

// String is the route as a line of a table.
func (r Route) String() string {
	return fmt.Sprintf("%-16s %-9s %-44s body %6d  rate %3.0f/s burst %3d  at once %d",
		r.Path, strings.Join(r.Methods, ","), r.Who.Name, r.Body, r.Rate, r.Burst, r.InFlight)
}

// Times and sizes of the guard.
const (
	// bodyTime is how long a caller may take to send a body.
	bodyTime = 15 * time.Second
	// remotes is how many a route remembers the rate of.
	remotes = 4096
)

// Add adds a route. Like Handle it panics on a path that is taken.
func (f *Front) Add(r Route) {
	g := &guard{Route: r, front: f, rates: &ratelimit.Keyed[netip.Prefix]{Rate: r.Rate, Burst: r.Burst, Keys: remotes}}
	if r.InFlight > 0 {
		g.slots = make(chan struct{}, r.InFlight)
	}
	f.mux.Handle(r.Path, g)
}

// guard does what a Route says.
type guard struct {
	Route
	front *Front
	rates *ratelimit.Keyed[netip.Prefix]
	slots chan struct{}
}

// ServeHTTP implements http.Handler.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !slices.Contains(g.Methods, r.Method) {
		w.Header().Set("Allow", strings.Join(g.Methods, ", "))
		g.refuse(w, http.StatusMethodNotAllowed, join.CodeMethod, fmt.Sprintf("method %.20s is not allowed, use %s", r.Method, strings.Join(g.Methods, " or ")))
		return
	}
	// What comes from this process has no remote.
	if remote := join.Remote(r); remote.IsValid() {
		if ok, wait := g.rates.Take(remote); !ok {
			g.busy(w, wait, fmt.Sprintf("too many requests came from %s", remote))
			return
		}
	}
	if g.slots != nil {
		select {
		case g.slots <- struct{}{}:
			defer func() { <-g.slots }()
		default:
			g.busy(w, time.Second, "too many requests at once")
			return
		}
	}
	if g.Who.Check != nil {
		if err := g.Who.Check(r); err != nil {
			g.front.opts.Logger.Warn("caller was refused", "remote", r.RemoteAddr, "path", r.URL.Path, "error", err)
			code := join.CodeOf(err)
			g.refuse(w, code.Status(), code, err.Error())
			return
		}
	}
	r.Body = http.MaxBytesReader(w, r.Body, g.Body)
	if g.Body > 0 && r.TLS != nil {
		if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)); err != nil {
			g.front.opts.Logger.Debug("a body has no deadline", "path", r.URL.Path, "error", err)
		}
	}
	g.Handler.ServeHTTP(w, r)
}

func (g *guard) busy(w http.ResponseWriter, wait time.Duration, message string) {
	w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
	g.refuse(w, join.CodeBusy.Status(), join.CodeBusy, message)
}

func (g *guard) refuse(w http.ResponseWriter, status int, code join.Code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(join.Refusal{Code: code, Message: message}); err != nil {
		g.front.opts.Logger.Debug("answer was not delivered", "error", err)
	}
}

// Ping answers that there is a server.
func (f *Front) Ping() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { f.text(w, http.StatusOK, "pong") })
}

// CACerts answers with the server's authority, which authority returns in PEM
// form.
func (f *Front) CACerts(authority func() []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		ca := authority()
		if len(ca) == 0 {
			w.Header().Set("Retry-After", "1")
			f.text(w, http.StatusServiceUnavailable, "the server has no certificates yet")
			return
		}
		f.text(w, http.StatusOK, string(ca))
	})
}
