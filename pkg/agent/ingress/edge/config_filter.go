package edge

import (
	"net/netip"
	"time"
)

// Filter is one step; exactly one field is set.
type Filter struct {
	RequestHeaders  *HeaderEdit
	ResponseHeaders *HeaderEdit
	Redirect        *Redirect
	Rewrite         *Rewrite
	Mirror          *Mirror
	CORS            *CORS
}

// Header is a name and a value.
type Header struct{ Name, Value string }

// HeaderEdit changes headers: Set, then Add, then Remove. "Host" of a request is the request's host.
type HeaderEdit struct {
	Set, Add []Header
	Remove   []string
}

// PathEditKind says what a PathEdit does.
type PathEditKind int

const (
	// PathFull puts Value in place of the path.
	PathFull PathEditKind = iota
	// PathReplacePrefix puts Value in place of the prefix that matched (PathPrefix matches).
	PathReplacePrefix
	// PathTemplate puts Value in place of the path, with $1, $2… replaced by the groups of the expression that matched (PathRegexp matches).
	PathTemplate
)

// PathEdit changes a path.
type PathEdit struct {
	Kind  PathEditKind
	Value string
}

// Redirect answers with a Location. What is empty stays as the client asked for; the query stays always.
type Redirect struct {
	Scheme   string
	Hostname string
	// Port 0 is the scheme's port if Scheme is set, else the listener's public one. 80 for http and 443 for https are not written.
	Port uint16
	Path *PathEdit
	// Status is 301, 302, 303, 307 or 308; 0 is 302.
	Status int
	// Location, if set, is all of the answer's Location and the fields before do not matter (permanent-redirect).
	Location string
}

// Rewrite changes what the backend sees.
type Rewrite struct {
	Hostname string
	Path     *PathEdit
}

// Mirror sends a copy of requests to another backend, whose answer is thrown away. Bodies over 1 MiB are not mirrored.
type Mirror struct {
	// Backend is a key of Config.Backends.
	Backend string
	// Numerator of Denominator requests are copied; a Denominator of 0 copies all.
	Numerator, Denominator int
}

// CORS answers preflight requests and adds its headers to the others.
type CORS struct {
	// AllowOrigins are "*", "https://example.com" or "https://*.example.com".
	AllowOrigins []string
	// AllowMethods, AllowHeaders and ExposeHeaders may be "*".
	AllowMethods     []string
	AllowHeaders     []string
	ExposeHeaders    []string
	AllowCredentials bool
	// MaxAge of a preflight answer; 0 is 5 s.
	MaxAge time.Duration
}

// Policy are the checks before a request is let in; the zero Policy lets everything in.
type Policy struct {
	// HTTPSOnly sends requests that came without TLS (by a trusted proxy's X-Forwarded-Proto too) to https with HTTPSStatus (0 is 308).
	// ACME challenges are answered before.
	HTTPSOnly   bool
	HTTPSStatus int
	// HTTPSPort is the public port of https; 0 is 443.
	HTTPSPort uint16
	// MaxBody in bytes answers 413 beyond; 0 is no limit.
	MaxBody int64
	// Allow, if not empty, and Deny are client addresses: 403.
	Allow, Deny []netip.Prefix
	// Rate limits each client address: 429.
	Rate *Rate
	// BasicAuth asks for a name and password: 401.
	BasicAuth *BasicAuth
}

// Rate is a token bucket.
type Rate struct {
	PerSecond float64
	// Burst is at least 1.
	Burst int
}

// BasicAuth is RFC 7617.
type BasicAuth struct {
	Realm string
	// Users are password hashes by name, as htpasswd writes them: bcrypt ($2y$), {SHA} and apr1 ($apr1$).
	Users map[string]string
}
