package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"skiff/pkg/paths"
)

// Complete fills in every blank from the facts and checks the result. The
// error joins everything that is wrong; each part names the option and its
// value. The receiver is not changed. An agent knows nothing of its cluster
// yet: see Completed.InCluster.
func (c *Config) Complete(role Role, f Facts) (Completed, error) {
	if role != RoleAgent {
		return c.complete(role, f)
	}
	input := *c
	input.Cluster = Cluster{}
	return input.complete(role, f)
}

func (c *Config) complete(role Role, f Facts) (Completed, error) {
	d := &completed{Config: *c, Role: role, Hostname: f.Hostname, input: *c, facts: f}
	d.Cluster.DNS = slices.Clone(c.Cluster.DNS)
	d.Node.IP = slices.Clone(c.Node.IP)

	d.completePaths(f)
	d.completeRanges()
	if err := d.validateInput(role); err != nil {
		return Completed{}, err // what follows is worked out from what was given
	}
	if d.Node.Name == "" {
		d.Node.Name = strings.ToLower(f.Hostname)
	}
	if d.Node.WithID {
		id, err := f.NodeID()
		if err != nil {
			return Completed{}, fmt.Errorf("--with-node-id: %w", err)
		}
		d.Node.Name += "-" + id
	}
	if len(d.Cluster.ServiceCIDR) > 0 {
		d.KubernetesServiceIP = nth(d.Cluster.ServiceCIDR[0], 1)
	}
	if len(d.Cluster.DNS) == 0 {
		for _, p := range d.Cluster.ServiceCIDR {
			d.Cluster.DNS = append(d.Cluster.DNS, nth(p, 10))
		}
	}
	if err := d.completeNodeIP(f); err != nil {
		return Completed{}, err
	}
	if role&RoleServer == 0 {
		d.Agent.Server, _ = serverURL(d.Agent.Server) // It has been validated.
		if err := d.validate(role); err != nil {
			return Completed{}, err
		}
		return Completed{d}, nil
	}
	if s := &d.Server; !s.AdvertiseAddress.IsValid() {
		s.AdvertiseAddress, d.ChosenAdvertise = d.Node.IP[0], true
		if s.BindAddress.IsGlobalUnicast() {
			s.AdvertiseAddress, d.ChosenAdvertise = s.BindAddress, false
		}
	}
	if err := d.validate(role); err != nil {
		return Completed{}, err
	}
	return Completed{d}, nil
}

// completeRanges gives ranges that were left at their defaults the IP families
// of those that were not, and of --node-ip if none was given. A server that
// serves IPv6 listens for both families.
func (d *completed) completeRanges() {
	defaults := Default().Cluster
	noPods, noServices := slices.Equal(d.Cluster.PodCIDR, defaults.PodCIDR), slices.Equal(d.Cluster.ServiceCIDR, defaults.ServiceCIDR)
	switch {
	case noPods && noServices && len(d.Node.IP) > 0 && d.Node.IP[0].Is6():
		d.Cluster.PodCIDR, d.Cluster.ServiceCIDR = []netip.Prefix{podsV6()}, []netip.Prefix{servicesV6()}
	case noServices:
		d.Cluster.ServiceCIDR = sameFamilies(d.Cluster.PodCIDR, defaults.ServiceCIDR[0], servicesV6())
	case noPods:
		d.Cluster.PodCIDR = sameFamilies(d.Cluster.ServiceCIDR, defaults.PodCIDR[0], podsV6())
	}
	isV6 := func(p netip.Prefix) bool { return p.Addr().Is6() }
	if d.Server.BindAddress == netip.IPv4Unspecified() && slices.ContainsFunc(d.Cluster.PodCIDR, isV6) {
		d.Server.BindAddress = netip.IPv6Unspecified()
	}
}

// The ranges of IPv6, as in K3s.
func podsV6() netip.Prefix     { return netip.MustParsePrefix("fd00:42::/56") }
func servicesV6() netip.Prefix { return netip.MustParsePrefix("fd00:43::/112") }

func sameFamilies(as []netip.Prefix, v4, v6 netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range as {
		if p.Addr().Is4() {
			out = append(out, v4)
		} else {
			out = append(out, v6)
		}
	}
	return out
}

func (d *completed) completePaths(f Facts) {
	for _, p := range []*string{&d.DataDir, &d.Log.File, &d.Join.TokenFile, &d.Join.AgentTokenFile, &d.Node.ResolvConf, &d.Node.PrivateRegistry, &d.Node.StoragePath, &d.Server.WriteKubeconfig, &d.Server.SnapshotDir} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(f.WorkingDir, *p)
		}
	}
	d.Paths = paths.New(d.DataDir)
	if d.Server.WriteKubeconfig == "" {
		d.Server.WriteKubeconfig = d.Paths.AdminKubeconfig()
	}
	if d.Server.SnapshotDir == "" {
		d.Server.SnapshotDir = d.Paths.Snapshots()
	}
	if d.Node.PrivateRegistry == "" {
		d.Node.PrivateRegistry = d.Paths.RegistriesFile()
	}
	if d.Node.StoragePath == "" {
		d.Node.StoragePath = d.Paths.Storage()
	}
	if d.File == "" {
		d.File = d.Paths.ConfigFile()
	}
}

// completeNodeIP chooses one address for each IP family that pods use. An
// IPv4 host without any address gets InternalAddress, so that a machine with
// nothing but a loopback interface works; IPv6 has no such way out.
func (d *completed) completeNodeIP(f Facts) error {
	if len(d.Node.IP) > 0 {
		return nil
	}
	d.ChosenIP = true
	if len(d.Cluster.PodCIDR) == 0 {
		return d.anyNodeIP(f)
	}
	var errs []error
	for _, pods := range d.Cluster.PodCIDR {
		addr, err := d.chooseAddress(f, pods.Addr().Is4())
		switch {
		case err != nil:
			errs = append(errs, err)
		case addr.IsValid():
			d.Node.IP = append(d.Node.IP, addr)
		case pods.Addr().Is4() && len(d.Node.IP) == 0:
			d.InternalAddress = InternalAddress()
			d.Node.IP = append(d.Node.IP, d.InternalAddress)
		default:
			errs = append(errs, fmt.Errorf("choose a node address: --cluster-cidr %s needs a host address of its IP family and there is none; give the host one, or set --node-ip", pods))
		}
	}
	if a := d.InternalAddress; a.IsValid() {
		for _, r := range d.clusterRanges() {
			if r.prefix.Contains(a) {
				errs = append(errs, fmt.Errorf("invalid --%s %s: this host has no address, so skiff uses %s, which lies in that range; choose another range or set --node-ip", r.option, r.prefix, a))
			}
		}
	}
	return errors.Join(errs...)
}

// anyNodeIP is completeNodeIP as long as it is not known which families pods
// use: the host's address of each.
func (d *completed) anyNodeIP(f Facts) error {
	for _, v4 := range []bool{true, false} {
		addr, err := d.chooseAddress(f, v4)
		if err != nil {
			return err
		}
		if addr.IsValid() {
			d.Node.IP = append(d.Node.IP, addr)
		}
	}
	if len(d.Node.IP) == 0 {
		d.InternalAddress = InternalAddress()
		d.Node.IP = []netip.Addr{d.InternalAddress}
	}
	return nil
}

// chooseAddress picks the host's address of one family, or none. Addresses in
// the cluster's own ranges are those of a bridge that an earlier skiff made,
// unless a default route uses one: then the ranges clash with the real network.
func (d *completed) chooseAddress(f Facts, v4 bool) (netip.Addr, error) {
	fits := func(a netip.Addr) bool {
		return a.Is4() == v4 && a != InternalAddress() && !a.IsLoopback() && !a.IsLinkLocalUnicast()
	}
	for _, a := range f.RouteAddresses {
		if !fits(a) {
			continue
		}
		for _, r := range d.clusterRanges() {
			if r.prefix.Contains(a) {
				return netip.Addr{}, fmt.Errorf("invalid --%s %s: the host's own address %s lies in that range; choose another range, or set --node-ip to an address outside it", r.option, r.prefix, a)
			}
		}
		return a, nil
	}
	for _, a := range f.Addresses {
		inCluster := slices.ContainsFunc(d.clusterRanges(), func(r clusterRange) bool { return r.prefix.Contains(a) })
		if fits(a) && !inCluster {
			return a, nil
		}
	}
	return netip.Addr{}, nil
}

type clusterRange struct {
	option string
	prefix netip.Prefix
}

func (d *completed) clusterRanges() []clusterRange {
	var out []clusterRange
	for _, p := range d.Cluster.PodCIDR {
		out = append(out, clusterRange{"cluster-cidr", p})
	}
	for _, p := range d.Cluster.ServiceCIDR {
		out = append(out, clusterRange{"service-cidr", p})
	}
	return out
}

// nth is the address n steps after the first of the range. n is small, and
// the range is known to be large enough.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Masked().Addr()
	for range n {
		a = a.Next()
	}
	return a
}
