package edge

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// policy is a compiled Policy.
type policy struct {
	Policy
	limit *limiter
	auth  *auth
	any   bool
}

func compilePolicy(p Policy, route string, l limiters) (policy, error) {
	c := policy{Policy: p}
	c.any = p.HTTPSOnly || p.MaxBody > 0 || len(p.Allow)+len(p.Deny) > 0 || p.Rate != nil || p.BasicAuth != nil
	if p.Rate != nil {
		if p.Rate.PerSecond <= 0 {
			return c, fmt.Errorf("rate limit of %v requests a second", p.Rate.PerSecond)
		}
		// A route that is compiled again goes on counting where it was.
		if c.limit = l.now[route]; c.limit == nil {
			c.limit = l.before[route]
		}
		if c.limit == nil || c.limit.rate != *p.Rate {
			c.limit = &limiter{rate: *p.Rate, buckets: map[netip.Addr]*bucket{}}
		}
		l.now[route] = c.limit
	}
	if p.BasicAuth != nil {
		var errs []error
		for user, hash := range p.BasicAuth.Users {
			if !knownHash(hash) {
				errs = append(errs, fmt.Errorf("password of %q: not a bcrypt, {SHA} or apr1 hash", user))
			}
		}
		c.auth = &auth{conf: p.BasicAuth, good: map[[sha256.Size]byte]bool{}}
		return c, errors.Join(errs...)
	}
	return c, nil
}

// check answers the requests that are not let in and says so with false.
func (p *policy) check(w http.ResponseWriter, r *http.Request, x *exchange) bool {
	if p.HTTPSOnly && x.scheme != "https" {
		status := p.HTTPSStatus
		if status == 0 {
			status = http.StatusPermanentRedirect
		}
		port := p.HTTPSPort
		w.Header().Set("Location", "https://"+withPort(hostOnly(r.Host), "https", port)+r.URL.RequestURI())
		x.answer(w, r, status)
		return false
	}
	if !p.address(x.client) {
		x.answer(w, r, http.StatusForbidden)
		return false
	}
	if p.limit != nil {
		if wait := p.limit.take(x.client, x.start); wait > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)+1))
			x.answer(w, r, http.StatusTooManyRequests)
			return false
		}
	}
	if p.auth != nil && !isPreflight(r) {
		if !p.auth.check(r) {
			w.Header().Set("Www-Authenticate", "Basic realm="+strconv.Quote(p.auth.conf.Realm)+`, charset="UTF-8"`)
			x.answer(w, r, http.StatusUnauthorized)
			return false
		}
	}
	if p.MaxBody > 0 {
		if r.ContentLength > p.MaxBody {
			x.answer(w, r, http.StatusRequestEntityTooLarge)
			return false
		}
		if r.Body != http.NoBody && r.ContentLength < 0 {
			r.Body = http.MaxBytesReader(nil, r.Body, p.MaxBody)
		}
	}
	return true
}

func (p *policy) address(a netip.Addr) bool {
	if contains(p.Deny, a) {
		return false
	}
	return len(p.Allow) == 0 || contains(p.Allow, a)
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// maxBuckets bounds the memory of a limiter. When it is full those go that would let a request through anyway, and if that is none, all go.
const maxBuckets = 10000

// limiters are those of the routes, by name, in the last Config and in this one.
type limiters struct{ before, now map[string]*limiter }

// limiter has a token bucket for each client.
type limiter struct {
	rate    Rate
	mu      sync.Mutex
	buckets map[netip.Addr]*bucket // guarded by mu
}

type bucket struct {
	tokens float64
	at     time.Time
}

// take is 0 if a request may pass now, else how long until one may.
func (l *limiter) take(client netip.Addr, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	burst := float64(max(l.rate.Burst, 1))
	b := l.buckets[client]
	if b == nil {
		if len(l.buckets) >= maxBuckets {
			l.evict(now, burst)
		}
		b = &bucket{tokens: burst, at: now}
		l.buckets[client] = b
	}
	b.tokens = min(burst, b.tokens+now.Sub(b.at).Seconds()*l.rate.PerSecond)
	b.at = now
	if b.tokens < 1 {
		return time.Duration((1 - b.tokens) / l.rate.PerSecond * float64(time.Second))
	}
	b.tokens--
	return 0
}

func (l *limiter) evict(now time.Time, burst float64) {
	for a, b := range l.buckets {
		if b.tokens+now.Sub(b.at).Seconds()*l.rate.PerSecond >= burst {
			delete(l.buckets, a)
		}
	}
	if len(l.buckets) >= maxBuckets {
		clear(l.buckets)
	}
}
