package rules

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"

	"skiff/pkg/agent/ingress/edge"
)

// Prefix is of the annotations that skiff reads; those of ingress-nginx with the
// same names mean the same, so that what was written for it keeps working.
const (
	Prefix      = "ingress.skiff.dev/"
	nginxPrefix = "nginx.ingress.kubernetes.io/"
)

// settings are what the annotations of an Ingress say.
type settings struct {
	policy       edge.Policy
	timeouts     edge.Timeouts
	filters      []edge.Filter
	session      *edge.Session
	rewrite      string
	regexp       bool
	protocol     string
	upstreamHost string
	appRoot      string
	appRootSet   map[string]bool
	acme         bool

	cors       *edge.CORS
	corsOn     bool
	burst      int
	authType   string
	authSecret string
	authRealm  string
	affinity   string
	cookie     edge.Session
	redirect   edge.Redirect
}

// annotation reads a value into settings. The error says what is wrong with the
// value alone.
type annotation func(s *settings, value string) error

// annotations are by name without a prefix; docs/ingress.md says what they mean.
var annotations = map[string]annotation{
	"ssl-redirect":            func(s *settings, v string) error { return boolean(&s.policy.HTTPSOnly, v) },
	"force-ssl-redirect":      func(s *settings, v string) error { return boolean(&s.policy.HTTPSOnly, v) },
	"rewrite-target":          func(s *settings, v string) error { s.rewrite = v; return nil },
	"use-regex":               func(s *settings, v string) error { return boolean(&s.regexp, v) },
	"app-root":                func(s *settings, v string) error { s.appRoot = v; return absolute(v) },
	"proxy-body-size":         func(s *settings, v string) error { return size(&s.policy.MaxBody, v) },
	"proxy-connect-timeout":   func(s *settings, v string) error { return seconds(&s.timeouts.Connect, v) },
	"proxy-read-timeout":      func(s *settings, v string) error { return longest(&s.timeouts.Idle, v) },
	"proxy-send-timeout":      func(s *settings, v string) error { return longest(&s.timeouts.Idle, v) },
	"request-timeout":         func(s *settings, v string) error { return seconds(&s.timeouts.Request, v) },
	"backend-protocol":        backendProtocol,
	"upstream-vhost":          func(s *settings, v string) error { s.upstreamHost = v; return nil },
	"whitelist-source-range":  func(s *settings, v string) error { return prefixes(&s.policy.Allow, v) },
	"allowlist-source-range":  func(s *settings, v string) error { return prefixes(&s.policy.Allow, v) },
	"denylist-source-range":   func(s *settings, v string) error { return prefixes(&s.policy.Deny, v) },
	"limit-rps":               func(s *settings, v string) error { return rate(s, v, 1) },
	"limit-rpm":               func(s *settings, v string) error { return rate(s, v, 60) },
	"limit-burst-multiplier":  func(s *settings, v string) error { return positive(&s.burst, v) },
	"enable-cors":             func(s *settings, v string) error { return boolean(&s.corsOn, v) },
	"cors-allow-origin":       func(s *settings, v string) error { s.cors.AllowOrigins = list(v); return nil },
	"cors-allow-methods":      func(s *settings, v string) error { s.cors.AllowMethods = list(v); return nil },
	"cors-allow-headers":      func(s *settings, v string) error { s.cors.AllowHeaders = list(v); return nil },
	"cors-expose-headers":     func(s *settings, v string) error { s.cors.ExposeHeaders = list(v); return nil },
	"cors-allow-credentials":  func(s *settings, v string) error { return boolean(&s.cors.AllowCredentials, v) },
	"cors-max-age":            func(s *settings, v string) error { return seconds(&s.cors.MaxAge, v) },
	"auth-type":               authType,
	"auth-secret":             func(s *settings, v string) error { s.authSecret = v; return nil },
	"auth-realm":              func(s *settings, v string) error { s.authRealm = v; return nil },
	"affinity":                affinity,
	"session-cookie-name":     func(s *settings, v string) error { s.cookie.Cookie = v; return nil },
	"session-cookie-path":     func(s *settings, v string) error { s.cookie.Path = v; return absolute(v) },
	"session-cookie-max-age":  func(s *settings, v string) error { return seconds(&s.cookie.MaxAge, v) },
	"permanent-redirect":      func(s *settings, v string) error { s.redirect.Location = v; return nil },
	"permanent-redirect-code": redirectCode,
	"temporal-redirect":       func(s *settings, v string) error { s.redirect.Location, s.redirect.Status = v, 302; return nil },
	"acme":                    func(s *settings, v string) error { return boolean(&s.acme, v) },
	"request-headers":         func(s *settings, v string) error { return headers(s, v, false) },
	"response-headers":        func(s *settings, v string) error { return headers(s, v, true) },
	"connection-proxy-header": ignored,
	"proxy-buffering":         ignored,
	"proxy-request-buffering": ignored,
	"proxy-buffer-size":       ignored,
	"proxy-buffers-number":    ignored,
	"proxy-http-version":      ignored,
	"ssl-passthrough":         unsupported("use a Gateway with a TLS listener in mode Passthrough"),
	"configuration-snippet":   unsupported("skiff runs no nginx"),
	"server-snippet":          unsupported("skiff runs no nginx"),
	"auth-url":                unsupported("put an authenticating proxy in front of the Service"),
	"canary":                  unsupported("use an HTTPRoute with weights"),
}

// settings reads the annotations of an Ingress. What makes no sense is a problem
// and otherwise left out, except where leaving it out would let somebody in.
func (t *translation) settings(i *networkingv1.Ingress) settings {
	s := settings{cors: &edge.CORS{}, burst: 5, appRootSet: make(map[string]bool)}
	for _, key := range slices.Sorted(maps.Keys(i.Annotations)) {
		name, ok := strings.CutPrefix(key, Prefix)
		if !ok {
			if name, ok = strings.CutPrefix(key, nginxPrefix); !ok {
				continue
			}
			if _, own := i.Annotations[Prefix+name]; own {
				continue
			}
		}
		read, known := annotations[name]
		if !known {
			t.problem(i, "UnknownAnnotation", "annotation %s is not known and has no effect", key)
			continue
		}
		if err := read(&s, i.Annotations[key]); err != nil {
			t.problem(i, "InvalidAnnotation", "annotation %s: %v", key, err)
			if strings.HasSuffix(name, "-source-range") || strings.HasPrefix(name, "auth-") {
				s.policy.Deny = everybody()
			}
		}
	}
	t.finish(i, &s)
	return s
}

// finish joins what several annotations say together.
func (t *translation) finish(i *networkingv1.Ingress, s *settings) {
	if s.rewrite != "" && strings.Contains(s.rewrite, "$") {
		s.regexp = true
	}
	if s.policy.Rate != nil {
		s.policy.Rate.Burst = max(1, int(s.policy.Rate.PerSecond*float64(s.burst)))
	}
	if s.corsOn {
		if len(s.cors.AllowOrigins) == 0 {
			s.cors.AllowOrigins = []string{"*"}
		}
		if len(s.cors.AllowMethods) == 0 {
			s.cors.AllowMethods = []string{"GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"}
		}
		if len(s.cors.AllowHeaders) == 0 {
			s.cors.AllowHeaders = []string{
				"DNT", "Keep-Alive", "User-Agent", "X-Requested-With", "If-Modified-Since", "Cache-Control", "Content-Type", "Range", "Authorization",
			}
		}
		s.filters = append([]edge.Filter{{CORS: s.cors}}, s.filters...)
	}
	if s.affinity != "" {
		s.session = &s.cookie
	}
	if s.redirect.Location != "" {
		if s.redirect.Status == 0 {
			s.redirect.Status = 301
		}
		s.filters = append(s.filters, edge.Filter{Redirect: &s.redirect})
	}
	if s.authType != "" || s.authSecret != "" {
		if err := t.basicAuth(i, s); err != nil {
			t.problem(i, "InvalidAuth", "%v; nobody is let in until this is put right", err)
			s.policy.Deny = everybody()
		}
	}
}

// basicAuth reads the users of a Secret with the key auth, in the form of
// htpasswd.
func (t *translation) basicAuth(i *networkingv1.Ingress, s *settings) error {
	if s.authSecret == "" {
		return errors.New("auth-type is set but auth-secret is not")
	}
	namespace, name, ok := strings.Cut(s.authSecret, "/")
	if !ok {
		namespace, name = i.Namespace, s.authSecret
	}
	if namespace != i.Namespace {
		return fmt.Errorf("auth-secret %s is in another namespace than the Ingress", s.authSecret)
	}
	secret := t.Lookup.Secret(namespace, name)
	if secret == nil {
		return fmt.Errorf("Secret %s/%s of auth-secret does not exist", namespace, name)
	}
	users := make(map[string]string)
	for line := range strings.Lines(string(secret.Data["auth"])) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		user, hash, ok := strings.Cut(line, ":")
		if !ok {
			return fmt.Errorf("a line of key auth of Secret %s/%s is not name:hash; write it with htpasswd", namespace, name)
		}
		users[user] = hash
	}
	if len(users) == 0 {
		return fmt.Errorf("Secret %s/%s has no users under the key auth", namespace, name)
	}
	realm := s.authRealm
	if realm == "" {
		realm = "Authentication required"
	}
	s.policy.BasicAuth = &edge.BasicAuth{Realm: realm, Users: users}
	return nil
}

func everybody() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

func ignored(*settings, string) error { return nil }

func unsupported(way string) annotation {
	return func(*settings, string) error { return fmt.Errorf("not supported: %s", way) }
}

func boolean(to *bool, v string) error {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return fmt.Errorf("%q is neither true nor false", v)
	}
	*to = *to || b
	return nil
}

func absolute(v string) error {
	if !strings.HasPrefix(v, "/") {
		return fmt.Errorf("%q is not a path that starts with /", v)
	}
	return nil
}

func positive(to *int, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		return fmt.Errorf("%q is not a number above 0", v)
	}
	*to = n
	return nil
}

// seconds reads "30" or "30s".
func seconds(to *time.Duration, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil {
		d, err = time.ParseDuration(v + "s")
	}
	if err != nil || d < 0 {
		return fmt.Errorf("%q is not a time in seconds", v)
	}
	*to = d
	return nil
}

// longest reads seconds, and keeps the longer of two annotations for one thing.
func longest(to *time.Duration, v string) error {
	var d time.Duration
	if err := seconds(&d, v); err != nil {
		return err
	}
	*to = max(*to, d)
	return nil
}

// size reads "8m", "100k", "1g" or bytes; 0 is no limit.
func size(to *int64, v string) error {
	number, unit := strings.ToLower(strings.TrimSpace(v)), int64(1)
	for suffix, u := range map[string]int64{"k": 1 << 10, "m": 1 << 20, "g": 1 << 30} {
		if n, ok := strings.CutSuffix(number, suffix); ok {
			number, unit = n, u
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return fmt.Errorf("%q is not a size like 8m", v)
	}
	*to = n * unit
	return nil
}

func list(v string) []string {
	var out []string
	for part := range strings.SplitSeq(v, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

func prefixes(to *[]netip.Prefix, v string) error {
	for _, part := range list(v) {
		p, err := netip.ParsePrefix(part)
		if err != nil {
			addr, err := netip.ParseAddr(part)
			if err != nil {
				return fmt.Errorf("%q is neither an address nor a range like 10.0.0.0/8; nobody is let in until this is put right", part)
			}
			p = netip.PrefixFrom(addr, addr.BitLen())
		}
		*to = append(*to, p.Masked())
	}
	return nil
}

func rate(s *settings, v string, per float64) error {
	n, err := strconv.ParseFloat(v, 64)
	if err != nil || n <= 0 {
		return fmt.Errorf("%q is not a number above 0", v)
	}
	s.policy.Rate = &edge.Rate{PerSecond: n / per}
	return nil
}

func backendProtocol(s *settings, v string) error {
	switch p := strings.ToUpper(v); p {
	case "HTTP", "HTTPS", "GRPC", "GRPCS":
		s.protocol = p
		return nil
	}
	return fmt.Errorf("%q is none of HTTP, HTTPS, GRPC and GRPCS", v)
}

func authType(s *settings, v string) error {
	if v != "basic" {
		return fmt.Errorf("%q is not supported, only basic is; nobody is let in until this is put right", v)
	}
	s.authType = v
	return nil
}

func affinity(s *settings, v string) error {
	if v != "cookie" {
		return fmt.Errorf("%q is not supported, only cookie is", v)
	}
	s.affinity = v
	return nil
}

func redirectCode(s *settings, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || !slices.Contains([]int{301, 302, 303, 307, 308}, n) {
		return fmt.Errorf("%q is none of 301, 302, 303, 307 and 308", v)
	}
	s.redirect.Status = n
	return nil
}

// headers reads lines of "Name: value"; a line "-Name" takes the header away.
func headers(s *settings, v string, response bool) error {
	edit := &edge.HeaderEdit{}
	for line := range strings.Lines(v) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if name, ok := strings.CutPrefix(line, "-"); ok {
			edit.Remove = append(edit.Remove, name)
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return fmt.Errorf("line %q is not \"Name: value\"", line)
		}
		edit.Set = append(edit.Set, edge.Header{Name: name, Value: strings.TrimSpace(value)})
	}
	f := edge.Filter{RequestHeaders: edit}
	if response {
		f = edge.Filter{ResponseHeaders: edit}
	}
	s.filters = append(s.filters, f)
	return nil
}
