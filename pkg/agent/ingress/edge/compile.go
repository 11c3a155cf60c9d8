package edge

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// table is what one socket does: the part of a Config with its address and port, compiled.
type table struct {
	// proto is of the first listener; all TLS kinds share a socket, see fits.
	proto     Protocol
	listeners hosts[*listener]
	// peeks says that some server names are handed on unopened, so that a ClientHello must be read before TLS begins.
	peeks     bool
	trusted   []netip.Prefix
	accessLog bool
	backends  map[string]*backend
}

// listener is the compiled form of all Listeners of a socket with the same Hostname.
type listener struct {
	name string
	port uint16
	// portText is port, in the form that headers want.
	portText []string
	proto    Protocol
	router   router
	streams  hosts[*streamRoute]
	tls      *tls.Config
}

type streamRoute struct {
	name   string
	shares shares
}

// route is a compiled Route.
type route struct {
	name    string
	matches []matcher
	filters []filter
	shares  shares
	policy  policy
	conf    Route
	// filtered says that the request as it came is needed besides the one sent on.
	filtered bool
}

// address is what a socket is bound to.
type address struct {
	host string
	port uint16
	// name tells apart those that ask for any free port.
	name string
}

func addressOf(l *Listener) address {
	a := address{host: l.Address, port: l.Port}
	if l.Port == 0 {
		a.name = l.Name
	}
	return a
}

// compiler turns a Config into tables and collects what makes no sense.
type compiler struct {
	config   *Config
	backends map[string]*backend
	limiters limiters
	tables   map[address]*table
	errs     []error
}

func (c *compiler) run() {
	for i := range c.config.Listeners {
		l := &c.config.Listeners[i]
		if err := c.listener(l); err != nil {
			c.errs = append(c.errs, &ListenerError{Listener: l.Name, Err: err})
		}
	}
	for _, t := range c.tables {
		t.listeners.each(func(l *listener) { l.router.sort() })
	}
}

func (c *compiler) listener(l *Listener) error {
	at := addressOf(l)
	t := c.tables[at]
	if t == nil {
		t = &table{proto: l.Protocol, trusted: c.config.Trusted, accessLog: c.config.AccessLog, backends: c.backends}
		c.tables[at] = t
	}
	if t.proto != l.Protocol && (!isTLS(t.proto) || !isTLS(l.Protocol)) {
		return fmt.Errorf("port %d is used by a listener of another protocol", l.Port)
	}
	var conflict error
	t.listeners.update(l.Hostname, false, func(have *listener) *listener {
		if have == nil {
			have = &listener{name: l.Name, port: l.PublicPort, proto: l.Protocol}
			if have.port == 0 {
				have.port = l.Port
			}
			have.portText = []string{strconv.Itoa(int(have.port))}
			if isTLS(l.Protocol) && l.Protocol != TLSPassthrough {
				have.tls = listenerTLS(l, c.config.DefaultCertificate)
			}
		} else if have.proto != l.Protocol {
			conflict = fmt.Errorf("hostname %q of port %d is used by listener %s with another protocol", l.Hostname, l.Port, have.name)
			return have
		}
		c.fill(have, l)
		return have
	})
	if l.Protocol == TLSPassthrough || l.Protocol == TLSTerminate {
		t.peeks = true
	}
	return conflict
}

func isTLS(p Protocol) bool { return p == HTTPS || p == TLSPassthrough || p == TLSTerminate }

// fill adds a Listener's routes.
func (c *compiler) fill(have *listener, l *Listener) {
	for _, h := range l.Hosts {
		var routes []*route
		for i := range h.Routes {
			if r := c.route(&h.Routes[i]); r != nil {
				routes = append(routes, r)
			}
		}
		have.router.add(h, routes)
	}
	if l.Default != nil && have.router.fallback == nil {
		have.router.fallback = c.route(l.Default)
	}
	for _, s := range l.Streams {
		sr := &streamRoute{name: s.Name, shares: compileShares(s.Backends)}
		names := s.Hosts
		if len(names) == 0 {
			names = []string{""}
		}
		for _, name := range names {
			have.streams.update(name, false, func(old *streamRoute) *streamRoute {
				if old != nil {
					return old
				}
				return sr
			})
		}
	}
}

// route is nil, with the reason noted, if the Route makes no sense.
func (c *compiler) route(in *Route) *route {
	r := &route{name: in.Name, conf: *in, shares: compileShares(in.Backends)}
	r.filtered = len(in.Filters) > 0
	var errs []error
	for _, m := range in.Matches {
		cm, err := compileMatch(m)
		errs = append(errs, err)
		r.matches = append(r.matches, cm)
	}
	if len(in.Matches) == 0 {
		r.matches = []matcher{{kind: PathPrefix}}
	}
	var err error
	r.filters, err = compileFilters(in.Filters)
	errs = append(errs, err)
	for i := range in.Backends {
		fs, err := compileFilters(in.Backends[i].Filters)
		errs = append(errs, err)
		r.shares.list[i].filters = fs
		r.filtered = r.filtered || len(fs) > 0
	}
	r.policy, err = compilePolicy(in.Policy, in.Name, c.limiters)
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		c.errs = append(c.errs, &RouteError{Route: in.Name, Err: err})
		return nil
	}
	return r
}

// shares are the weighted backends of a route.
type shares struct {
	list  []share
	total int
}

type share struct {
	backend string
	weight  int
	status  int
	filters []filter
}

func compileShares(in []WeightedBackend) shares {
	var s shares
	for _, b := range in {
		sh := share{backend: b.Backend, weight: max(b.Weight, 0), status: b.Status}
		if sh.status == 0 {
			sh.status = 500
		}
		s.list = append(s.list, sh)
		s.total += sh.weight
	}
	return s
}

// pick chooses by weight with a random number; nil if there is nothing to choose from.
func (s *shares) pick(random func(int) int) *share {
	if s.total == 0 {
		return nil
	}
	if len(s.list) == 1 {
		return &s.list[0]
	}
	n := random(s.total)
	for i := range s.list {
		if n -= s.list[i].weight; n < 0 {
			return &s.list[i]
		}
	}
	return nil
}

// listenerTLS is the configuration of a listener that ends TLS.
func listenerTLS(l *Listener, fallback *tls.Certificate) *tls.Config {
	certs := newCertificates(l.Certificates, fallback)
	conf := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certs.get}
	if l.Protocol == HTTPS {
		conf.NextProtos = []string{"h2", "http/1.1"}
	}
	if l.ClientCAs != nil {
		conf.ClientCAs, conf.ClientAuth = l.ClientCAs, tls.RequireAndVerifyClientCert
		// A session must not carry a client past a change of the authorities.
		conf.SessionTicketsDisabled = true
		if l.ClientCertOptional {
			conf.ClientAuth = tls.RequestClientCert
		}
	}
	return conf
}

// certificates chooses one by server name.
type certificates struct {
	byName hosts[[]*tls.Certificate]
	other  *tls.Certificate
}

var errNoCertificate = errors.New("no certificate for this server name")

func newCertificates(list []*tls.Certificate, fallback *tls.Certificate) *certificates {
	c := &certificates{other: fallback}
	for i, cert := range list {
		if cert == nil || cert.Leaf == nil {
			continue
		}
		if i == 0 {
			c.other = cert
		}
		for _, name := range cert.Leaf.DNSNames {
			if strings.Trim(name, "*.") != "" {
				c.byName.update(name, true, func(l []*tls.Certificate) []*tls.Certificate { return append(l, cert) })
			}
		}
	}
	return c
}

func (c *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	var found *tls.Certificate
	c.byName.find(canonicalHost(hello.ServerName), func(list []*tls.Certificate) bool {
		found = list[0]
		for _, cert := range list {
			if hello.SupportsCertificate(cert) == nil {
				found = cert
				break
			}
		}
		return true
	})
	switch {
	case found != nil:
		return found, nil
	case c.other == nil:
		return nil, errNoCertificate
	}
	return c.other, nil
}
