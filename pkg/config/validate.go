package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// minSnapshotInterval leaves the server time for something else.
const minSnapshotInterval = 10 * time.Second

// problems collects what is wrong with a configuration, in the words a person
// sees: which option, which value, why.
type problems struct{ errs []error }

func (p *problems) add(option string, value any, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("invalid --%s %q: %w", option, fmt.Sprint(value), fmt.Errorf(format, args...)))
}

func (p *problems) err() error { return errors.Join(p.errs...) }

// validateInput checks what must hold before blanks can be filled in.
func (d *completed) validateInput(role Role) error {
	var p problems
	if role&RoleServer != 0 {
		d.validateServer(&p)
	}
	if role&RoleAgent != 0 {
		d.validateAgent(&p)
	}
	if role != RoleAgent || len(d.Cluster.PodCIDR) > 0 { // An agent is told later.
		d.validateCluster(&p)
	}
	oneOf(&p, "snapshotter", d.Node.Snapshotter, "auto", "overlayfs", "native")
	for _, l := range d.Node.Labels {
		if err := checkLabel(l); err != nil {
			p.add("node-label", l, "%w", err)
		}
	}
	for _, t := range d.Node.Taints {
		if err := checkTaint(t); err != nil {
			p.add("node-taint", t, "%w", err)
		}
	}
	return p.err()
}

func (d *completed) validateCluster(p *problems) {
	d.validateRanges(p)
	if !isDomain(d.Cluster.Domain) {
		p.add("cluster-domain", d.Cluster.Domain, "want a DNS domain like cluster.local, in lower case")
	}
	oneOf(p, "flannel-backend", d.Cluster.FlannelBackend, "vxlan", "host-gw", "wireguard-native", "none")
	oneOf(p, "egress-selector-mode", d.Cluster.EgressSelectorMode, "agent", "pod", "cluster", "disabled")
}

// validate checks the completed values against each other.
func (d *completed) validate(role Role) error {
	var p problems
	if !isDomain(d.Node.Name) {
		p.add("node-name", d.Node.Name, "want letters in lower case, digits, '-' and '.', beginning and ending with a letter or digit; if this is the host name, set --node-name")
	}
	d.validateNodeIP(&p)
	if role&RoleServer == 0 {
		return p.err()
	}
	if a := d.Server.AdvertiseAddress; a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		p.add("advertise-address", a, "pods and other nodes cannot reach this kind of address")
	}
	d.validateDNS(&p)
	return p.err()
}

func (d *completed) validateServer(p *problems) {
	s := &d.Server
	if s.Port < 1 || s.Port > 65535 {
		p.add("https-listen-port", s.Port, "want a port between 1 and 65535")
	}
	if s.BindAddress.IsMulticast() {
		p.add("bind-address", s.BindAddress, "a multicast address cannot be listened on")
	}
	for _, san := range s.TLSSAN {
		if _, err := netip.ParseAddr(san); err != nil && !isDomain(strings.ToLower(strings.TrimPrefix(san, "*."))) {
			p.add("tls-san", san, "want a host name or an IP address, without scheme and port")
		}
	}
	if mode, err := strconv.ParseUint(s.WriteKubeconfigMode, 8, 32); err != nil || mode > uint64(fs.ModePerm) {
		p.add("write-kubeconfig-mode", s.WriteKubeconfigMode, "want an octal file mode like 0600")
	}
	if e := s.DatastoreEndpoint; e != "" {
		scheme, _, ok := strings.Cut(e, "://")
		schemes := []string{"sqlite", "postgres", "postgresql", "mysql", "http", "https"}
		if !ok || !slices.Contains(schemes, scheme) {
			p.add("datastore-endpoint", maskedURL(e), "want a URL that begins with one of %s://%s", strings.Join(schemes, "://, "), didYouMean(scheme, schemes))
		}
	}
	if d, all := s.DatastoreDurability, []string{"full", "balanced", "relaxed"}; d != "" && !slices.Contains(all, d) {
		p.add("datastore-durability", d, "want one of %s%s", strings.Join(all, ", "), didYouMean(d, all))
	}
	if i := s.SnapshotInterval; i < 0 || i > 0 && i < minSnapshotInterval {
		p.add("snapshot-interval", i, "want a time of at least %s, or 0 for no snapshots", minSnapshotInterval)
	}
	if s.SnapshotKeep < 1 {
		p.add("snapshot-keep", s.SnapshotKeep, "want at least 1; --snapshot-interval=0 makes no snapshots")
	}
	for _, name := range s.Disable {
		if err := checkDisable(name); err != nil {
			p.add("disable", name, "%w", err)
		}
	}
	first, last, err := parsePortRange(d.Cluster.NodePortRange)
	switch {
	case err != nil:
		p.add("service-node-port-range", d.Cluster.NodePortRange, "%w", err)
	case first <= s.Port && s.Port <= last:
		p.add("service-node-port-range", d.Cluster.NodePortRange, "it contains --https-listen-port %d", s.Port)
	}
}

func parsePortRange(s string) (first, last int, err error) {
	a, b, ok := strings.Cut(s, "-")
	first, err1 := strconv.Atoi(a)
	last, err2 := strconv.Atoi(b)
	if !ok || err1 != nil || err2 != nil {
		return 0, 0, errors.New("want FIRST-LAST, like 30000-32767")
	}
	if first < 1 || last > 65535 || first > last {
		return 0, 0, errors.New("want ports between 1 and 65535, the lower one first")
	}
	return first, last, nil
}

func (d *completed) validateRanges(p *problems) {
	pods, services := d.Cluster.PodCIDR, d.Cluster.ServiceCIDR
	// Upstream hands out /24 (IPv4) and /64 (IPv6) to nodes and keeps a bitmap
	// of at most 2^16 of them; services have at most 20 bits and, for the
	// cluster's DNS, at least ten addresses.
	checkRanges(p, "cluster-cidr", pods, [2]int{8, 24}, [2]int{48, 64})
	checkRanges(p, "service-cidr", services, [2]int{12, 28}, [2]int{108, 124})
	for i, a := range pods {
		if i < len(services) && a.Addr().Is4() != services[i].Addr().Is4() {
			p.add("service-cidr", services[i], "its IP family is not that of --cluster-cidr %s; list the families in the same order", a)
		}
		for _, b := range services {
			if a.Overlaps(b) {
				p.add("service-cidr", b, "it overlaps --cluster-cidr %s", a)
			}
		}
	}
	if len(pods) != len(services) && len(pods) > 0 && len(services) > 0 {
		p.add("service-cidr", joinStrings(services), "give one range per IP family of --cluster-cidr %s", joinStrings(pods))
	}
}

// checkRanges checks the ranges of one option; v4 and v6 are the shortest and
// longest prefix allowed.
func checkRanges(p *problems, option string, ranges []netip.Prefix, v4, v6 [2]int) {
	if len(ranges) == 0 {
		p.add(option, "", "want at least one range")
	}
	if len(ranges) > 2 || len(ranges) == 2 && ranges[0].Addr().Is4() == ranges[1].Addr().Is4() {
		p.add(option, joinStrings(ranges), "want at most one range per IP family")
	}
	for _, r := range ranges {
		bits := v6
		if r.Addr().Is4() {
			bits = v4
		}
		switch {
		case r != r.Masked():
			p.add(option, r, "the address is not the first of its range; did you mean %s?", r.Masked())
		case r.Bits() < bits[0]:
			p.add(option, r, "the range is too large; the prefix must be /%d or longer", bits[0])
		case r.Bits() > bits[1]:
			p.add(option, r, "the range is too small; the prefix must be /%d or shorter", bits[1])
		}
	}
}

func (d *completed) validateNodeIP(p *problems) {
	ips := d.Node.IP
	if len(ips) > 2 || len(ips) == 2 && ips[0].Is4() == ips[1].Is4() {
		p.add("node-ip", joinStrings(ips), "want at most one address per IP family")
	}
	for _, a := range ips {
		if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() {
			p.add("node-ip", a, "pods and other nodes cannot reach this kind of address")
		}
		for _, r := range d.clusterRanges() {
			if r.prefix.Contains(a) {
				p.add("node-ip", a, "it lies in --%s %s", r.option, r.prefix)
			}
		}
	}
	if e := d.Node.ExternalIP; len(e) > 2 || len(e) == 2 && e[0].Is4() == e[1].Is4() {
		p.add("node-external-ip", joinStrings(e), "want at most one address per IP family")
	}
	for _, a := range d.Node.ExternalIP {
		if !a.IsGlobalUnicast() {
			p.add("node-external-ip", a, "nobody outside can reach this kind of address")
		}
	}
	if d.Cluster.FlannelExternalIP && len(d.Node.ExternalIP) == 0 {
		p.add("flannel-external-ip", true, "it needs --node-external-ip, on every node")
	}
	for _, pods := range d.Cluster.PodCIDR {
		sameFamily := func(a netip.Addr) bool { return a.Is4() == pods.Addr().Is4() }
		if !slices.ContainsFunc(ips, sameFamily) {
			p.add("node-ip", joinStrings(ips), "--cluster-cidr %s needs an address of its IP family, too", pods)
		}
	}
}

func (d *completed) validateDNS(p *problems) {
	for _, a := range d.Cluster.DNS {
		i := slices.IndexFunc(d.Cluster.ServiceCIDR, func(r netip.Prefix) bool { return r.Contains(a) })
		if i < 0 {
			p.add("cluster-dns", a, "it lies outside --service-cidr %s", joinStrings(d.Cluster.ServiceCIDR))
			continue
		}
		if r := d.Cluster.ServiceCIDR[i]; a == nth(r, 0) || a == nth(r, 1) {
			p.add("cluster-dns", a, "the first addresses of --service-cidr %s belong to the API; the default is %s", r, nth(r, 10))
		}
	}
	if n := d.Cluster.DNS; len(n) > 2 || len(n) == 2 && n[0].Is4() == n[1].Is4() {
		p.add("cluster-dns", joinStrings(n), "want at most one address per IP family")
	}
}

func oneOf(p *problems, option, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		p.add(option, value, "want one of %s%s", strings.Join(allowed, ", "), didYouMean(value, allowed))
	}
}

func isDomain(s string) bool {
	ok, _ := regexp.MatchString(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$`, s)
	return ok && len(s) <= 253
}

func joinStrings[T fmt.Stringer](items []T) string {
	var out []string
	for _, i := range items {
		out = append(out, i.String())
	}
	return strings.Join(out, ",")
}
