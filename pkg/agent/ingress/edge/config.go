package edge

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"time"
)

// Config is all a Server does, as one value. It is compiled by Apply and not kept; the caller may change its copy afterwards, but not the certificates.
type Config struct {
	// Listeners are the ports to answer on. Several may share an Address and Port: see Listener.
	Listeners []Listener
	// Backends are the targets routes point to, by the key the routes use. Connections, round-robin position and health of a backend outlive an
	// Apply for as long as its key stays.
	Backends map[string]Backend
	// DefaultCertificate is shown where no certificate of the listener fits the server name; nil refuses such a handshake.
	DefaultCertificate *tls.Certificate
	// Trusted are the peers (other proxies) whose X-Forwarded-* are believed and extended. The headers of all others are replaced.
	Trusted []netip.Prefix
	// AccessLog writes one line for each request (Info, "request").
	AccessLog bool
}

// Protocol says what a Listener does with a connection.
type Protocol int

const (
	// HTTP is clear-text HTTP/1.1, and HTTP/2 by prior knowledge.
	HTTP Protocol = iota
	// HTTPS is HTTP/1.1 and HTTP/2 in TLS ended here.
	HTTPS
	// TLSPassthrough hands the encrypted stream on, chosen by the server name of its ClientHello. Streams apply, Hosts do not.
	TLSPassthrough
	// TLSTerminate ends TLS here and hands the plain stream on. Streams apply, Hosts do not.
	TLSTerminate
	// TCP hands the stream of the port on. The first of Streams applies.
	TCP
)

// Listener is one named entry point. Those with the same Address and Port share one socket: there the client's server name (or Host, without TLS)
// chooses the listener with the most specific Hostname, and only its routes are looked at. Of those with the same Hostname too, the routes are joined,
// an earlier listener's first. HTTPS, TLSPassthrough and TLSTerminate may share a socket; HTTP and TCP share only with their own kind.
type Listener struct {
	// Name is said in errors, logs and ListenerError; it must be unique.
	Name string
	// Address is the IP to bind; empty is all, of both families.
	Address string
	// Port is bound. 0 takes a free one (see Server.Addr).
	Port uint16
	// PublicPort is what clients dial if not Port: for redirects and X-Forwarded-Port. 0 is Port.
	PublicPort uint16
	Protocol   Protocol
	// Hostname limits the listener: exact, "*.example.com" (one or more labels in its place), or empty for any.
	Hostname string
	// Certificates for HTTPS and TLSTerminate; of several, the one that fits the server name (exact before wildcard, earlier before later), else the
	// first, else Config.DefaultCertificate.
	Certificates []*tls.Certificate
	// ClientCAs, if set, asks for a client certificate signed by one of them.
	ClientCAs *x509.CertPool
	// ClientCertOptional lets clients without a valid certificate in as well.
	ClientCertOptional bool
	// Hosts are the routes of HTTP and HTTPS.
	Hosts []VirtualHost
	// Default answers what no route of Hosts matches; nil answers 404. Its Matches are not looked at.
	Default *Route
	// Streams are the routes of the other protocols.
	Streams []StreamRoute
}

// VirtualHost is a set of routes for some hosts. The same host may be in several of them: their routes are joined in this order.
//
// A request tries the hosts that fit it from the most specific on (exact, longest wildcard, any) until a route matches.
type VirtualHost struct {
	// Hosts are exact names or "*.example.com"; empty is any. Case and port do not matter.
	Hosts []string
	// WildcardOneLabel makes "*" stand for one label only, as Ingress wants; Gateway API wants one or more.
	WildcardOneLabel bool
	Routes           []Route
}

// StreamRoute sends connections of some server names (as in VirtualHost.Hosts; none: all) to backends.
type StreamRoute struct {
	Name     string
	Hosts    []string
	Backends []WeightedBackend
}

// Route is what happens to the requests that one of its matches fits.
//
// Within a host the order is that of Gateway API: exact path, then regular expression, then the longest prefix; then a method match; then more header
// matches; then more query matches; then the order of the routes here. The caller orders routes of equal matches (by age and name of their objects).
type Route struct {
	// Name is said in errors and the access log, as "namespace/name" of the object.
	Name string
	// Matches are alternatives; none matches all requests.
	Matches []Match
	// Filters run in this order, before a backend is chosen. A Redirect ends the request.
	Filters []Filter
	// Backends are chosen by weight. With none (and no Redirect) or when the chosen one is not in Config.Backends, the answer is 500;
	// with no ready endpoint 503.
	Backends []WeightedBackend
	Timeouts Timeouts
	// Retry, if set, tries another endpoint. Without it only a connection that could not be made, or a kept one that turned out closed before
	// anything of an idempotent request was answered, is tried again.
	Retry *Retry
	// Session, if set, keeps a client on its endpoint by a cookie.
	Session *Session
	// Policy are the limits before a request is let in.
	Policy Policy
}

// Match fits a request when all its parts do.
type Match struct {
	Path PathMatch
	// Method is compared as is; empty is any.
	Method  string
	Headers []ValueMatch
	Query   []ValueMatch
}

// PathKind is how PathMatch.Value is compared.
type PathKind int

const (
	// PathPrefix matches whole elements: "/a" and "/a/" fit "/a", "/a/" and "/a/b", not "/ab". Empty and "/" fit everything.
	PathPrefix PathKind = iota
	// PathExact is equality.
	PathExact
	// PathRegexp is an RE2 expression that fits the whole path.
	PathRegexp
)

// PathMatch compares the path as sent, percent-decoded, without the query.
type PathMatch struct {
	Kind  PathKind
	Value string
	// FoldCase ignores case, for PathRegexp only (the nginx way).
	FoldCase bool
}

// ValueMatch compares a header (name case-insensitive, several values joined by ",") or the first value of a query parameter.
type ValueMatch struct {
	Name  string
	Value string
	// Regexp makes Value an RE2 expression that fits the whole value.
	Regexp bool
}

// WeightedBackend is a share of a route's requests.
type WeightedBackend struct {
	// Backend is a key of Config.Backends. Empty, or one that is missing there, answers Status to its share of requests.
	Backend string
	// Weight is relative; 0 gets nothing. When all are 0 the answer is 500.
	Weight int
	// Filters run after the route's, for requests of this backend: HeaderEdit, Rewrite and Mirror.
	Filters []Filter
	// Status is answered where the backend is missing; 0 is 500, as Gateway API says. Ingress says 503.
	Status int
}

// BackendProtocol is spoken to endpoints.
type BackendProtocol int

const (
	// BackendHTTP is HTTP/1.1 (WebSocket and other upgrades included); in TLS, HTTP/2 if the endpoint offers it.
	BackendHTTP BackendProtocol = iota
	// BackendH2C is HTTP/2 by prior knowledge: gRPC.
	BackendH2C
)

// Backend is a set of endpoints reached in the same way. Streams use Endpoints and TLS alone.
type Backend struct {
	Protocol BackendProtocol
	// TLS, if set, speaks TLS to the endpoints.
	TLS *BackendTLS
	// Endpoints at the time of Apply; afterwards Server.SetEndpoints changes them without compiling anything.
	Endpoints []Endpoint
	// HostRewrite, if set, replaces the Host header sent (upstream-vhost).
	HostRewrite string
	// HashClient keeps a client's address on one endpoint while the set does not change (sessionAffinity: ClientIP).
	HashClient bool
}

// Endpoint is an address that serves a backend. The caller gives the ready ones only; one that goes away finishes its requests.
type Endpoint struct {
	Addr netip.AddrPort
}

// BackendTLS is how an endpoint proves who it is.
type BackendTLS struct {
	// ServerName is sent as SNI and verified, unless SubjectAltNames are set.
	ServerName string
	// RootCAs verify; nil is the system's.
	RootCAs *x509.CertPool
	// SubjectAltNames, if set, are verified in place of ServerName: DNS names or URIs, one must be in the certificate.
	SubjectAltNames []string
	// Insecure verifies nothing: the way of Ingress annotations, where nothing says whom to trust.
	Insecure bool
	// Certificate is shown to the endpoint.
	Certificate *tls.Certificate
}

// Timeouts bound a request; 0 is no bound where nothing else is said.
type Timeouts struct {
	// Request is from the request's head to the answer's end: 504.
	Request time.Duration
	// BackendRequest is for one try, to the answer's end: 504.
	BackendRequest time.Duration
	// Connect is for the connection to an endpoint; 0 is 5 s.
	Connect time.Duration
	// Idle is between two reads from or writes to an endpoint, upgraded connections included; 0 is none.
	Idle time.Duration
}

// Retry says which requests are sent again. A request whose body was begun to be sent is not, unless the body is small enough to be kept (64 KiB).
type Retry struct {
	// Attempts are tries after the first.
	Attempts int
	// Backoff is waited between two tries; 0 is 25 ms, doubled each time.
	Backoff time.Duration
	// Statuses (5xx) of an answer that are tried again. Connection errors always are.
	Statuses []int
}

// Session is cookie persistence. The cookie names the endpoint by a hash; when that one is gone another is chosen and the cookie set anew.
type Session struct {
	// Cookie's name; empty is "skiff-session".
	Cookie string
	// MaxAge makes it permanent; 0 lasts for the browser's session.
	MaxAge time.Duration
	// Path of the cookie; empty is "/".
	Path string
}
