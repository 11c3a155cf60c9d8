package ingress

import (
	"crypto/tls"
	"slices"
	"strings"

	"skiff/pkg/agent/ingress/edge"
	"skiff/pkg/agent/ingress/rules"
)

// join puts the listeners of Ingresses beside those of Gateways. On a port of
// both, the edge looks only at the listener with the most specific hostname, and
// Ingresses have none: so a host of theirs that a Gateway's listener would hide
// gets a listener of its own. fallback is shown where no other certificate fits;
// it may be nil.
func join(gateways []edge.Listener, r rules.Result, fallback *tls.Certificate) []edge.Listener {
	out := slices.Clone(gateways)
	for _, l := range r.Listeners {
		if l.Protocol == edge.HTTPS && fallback != nil {
			// The first is shown for names that no certificate is for.
			l.Certificates = append([]*tls.Certificate{fallback}, l.Certificates...)
		}
		out = append(out, l)
		for _, hidden := range hiddenHosts(gateways, l) {
			own := l
			own.Name, own.Hostname = l.Name+"/"+hidden, hidden
			out = append(out, own)
		}
	}
	// Where listeners are one to the edge, the first one's TLS counts, and so it
	// must have the others' certificates too.
	type socket struct {
		port     uint16
		hostname string
	}
	shared := make(map[socket][]*tls.Certificate)
	for _, l := range out {
		if l.Protocol == edge.HTTPS {
			at := socket{l.Port, l.Hostname}
			shared[at] = append(shared[at], l.Certificates...)
		}
	}
	for i, l := range out {
		if l.Protocol == edge.HTTPS {
			out[i].Certificates = shared[socket{l.Port, l.Hostname}]
		}
	}
	return out
}

// hiddenHosts are the hosts of a listener that some Gateway's listener on its
// port would be asked for instead.
func hiddenHosts(gateways []edge.Listener, l edge.Listener) []string {
	var out []string
	for _, v := range l.Hosts {
		for _, host := range v.Hosts {
			if slices.ContainsFunc(gateways, func(g edge.Listener) bool { return g.Port == l.Port && covers(g.Hostname, host) }) {
				out = append(out, host)
			}
		}
	}
	return out
}

// covers reports whether requests for host go to a listener of this name.
func covers(hostname, host string) bool {
	suffix, wild := strings.CutPrefix(hostname, "*")
	return hostname != "" && (hostname == host || wild && strings.HasSuffix(host, suffix) && host != hostname)
}
