package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"skiff/internal/netx"
	"skiff/internal/resolvconf"
	"skiff/pkg/preflight"
)

// Ports that pods' traffic needs besides those of preflight.
const (
	vxlanPort     = 8472
	wireguardPort = 51820
	httpPort      = 80
	httpsPort     = 443
	dnsPort       = 53
)

func networkChecks() []check {
	return []check{
		{
			id: "port-taken", worst: Error, about: "the ports of the API, the kubelet, the way to the servers and the VXLAN tunnel, and who has them",
			why: "skiff does not start without its ports", look: lookPorts,
		},
		{
			id: "port-http", worst: Warning, server: true, node: true, about: "ports 80 and 443, and who has them",
			why: "Ingresses and Gateways are served there, from the first one on; --disable ingress wants none", look: lookHTTP,
		},
		{
			id: "dns-loop", worst: Error, node: true, about: "name servers in resolv.conf that are this machine or the cluster itself",
			why: "a pod that asks 127.0.0.53 asks itself, and the cluster's DNS that asks itself answers nobody", look: lookDNSLoop,
		},
		{
			id: "dns-none", worst: Info, node: true, about: "a resolv.conf without name servers",
			why: "pods resolve the names of the cluster and no others, which is as it should be where there is no network", look: lookDNSNone,
		},
		{
			id: "no-default-route", worst: Info, node: true, about: "whether there is a default route",
			why: "skiff needs none: on a machine without one, it works within the machine and its own networks", look: lookRoute,
		},
	}
}

func lookPorts(_ context.Context, x *exam) error {
	for _, p := range x.Ports {
		x.port(Error, p.Address, p.For)
	}
	if x.PID != 0 || !x.Node || x.Backend != "vxlan" {
		return nil // The tunnel's port is the kernel's, and ours.
	}
	var used *netx.PortInUseError
	if err := x.sys.udpFree(netip.AddrPortFrom(netip.IPv4Unspecified(), vxlanPort)); !errors.As(err, &used) {
		return nil
	}
	links, err := x.sys.links()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.udpPort == vxlanPort && strings.HasPrefix(l.name, "flannel") {
			return nil // Ours, of the pods that go on while skiff is stopped, or a leftover, which has an id.
		}
		if l.udpPort == vxlanPort {
			x.found(Error, fmt.Sprintf("UDP port %d (the VXLAN tunnel) is in use by the interface %s", vxlanPort, l.name), "ip link delete "+l.name+", and remove what makes it", nil)
			return nil
		}
	}
	x.found(Error, fmt.Sprintf("UDP port %d (the VXLAN tunnel) is in use", vxlanPort), fmt.Sprintf("ss -ulnp sport = :%d shows by whom; stop it", vxlanPort), nil)
	return nil
}

// port adds a finding if somebody else has a port.
func (x *exam) port(s Severity, at netip.AddrPort, what string) {
	var used *netx.PortInUseError
	if err := x.sys.tcpFree(at); !errors.As(err, &used) {
		return
	}
	if used.PID == x.PID && x.PID != 0 || used.PID == 0 && x.PID != 0 {
		return // Ours. Without root it cannot be told, and it is most likely.
	}
	user, mend := "another process", fmt.Sprintf("sudo ss -tlnp sport = :%d shows which; stop it, or choose another port", at.Port())
	if used.PID != 0 {
		user = fmt.Sprintf("%s (process %d)", used.Process, used.PID)
		mend = fmt.Sprintf("stop it (kill %d, or its service: systemctl status %d shows which), or choose another port", used.PID, used.PID)
	}
	x.found(s, fmt.Sprintf("port %d (%s) is in use by %s", at.Port(), what, user), mend, nil)
}

func lookHTTP(_ context.Context, x *exam) error {
	if !x.Ingress {
		return nil
	}
	for _, port := range []uint16{httpPort, httpsPort} {
		at := netip.AddrPortFrom(netip.IPv4Unspecified(), port)
		if !slices.ContainsFunc(x.Ports, func(p preflight.Port) bool { return p.Address.Port() == port }) {
			x.port(Warning, at, "Ingresses and Gateways")
		}
	}
	return nil
}

// resolvConf returns what the first readable source says that names a server
// for pods, else what the first says.
func (x *exam) resolvConf() (file string, servers, local []string, err error) {
	err = fmt.Errorf("no resolver configuration is known")
	for i, source := range x.ResolvConf {
		data, readErr := os.ReadFile(x.Path(source))
		if readErr != nil {
			if i == 0 {
				err = readErr
			}
			continue
		}
		_, some, loops := resolvconf.ForPods(string(data))
		if i == 0 || len(some) > 0 {
			file, servers, local, err = source, some, loops, nil
		}
		if len(some) > 0 {
			return file, servers, local, nil
		}
	}
	return file, servers, local, err
}

func lookDNSLoop(_ context.Context, x *exam) error {
	file, servers, local, err := x.resolvConf()
	if err != nil {
		return nil //nolint:nilerr // dns-none says so
	}
	for _, s := range servers {
		a, err := netip.ParseAddr(s)
		inServices := slices.ContainsFunc(x.ServiceCIDR, func(p netip.Prefix) bool { return err == nil && p.Contains(a) })
		if inServices || err == nil && slices.Contains(x.ClusterDNS, a) {
			x.found(Error, fmt.Sprintf("%s names %s, which is the cluster's own: its DNS asks itself", file, s),
				"write the name server of your network there, or name a file with it by --resolv-conf", nil)
		}
	}
	if len(servers) == 0 && len(local) > 0 {
		x.found(Warning, fmt.Sprintf("%s names only %s, which a pod cannot reach", file, strings.Join(local, " and ")),
			"write the name server of your network there, or into a file of its own that --resolv-conf names; where systemd-resolved runs, it must have been told one: resolvectl status", nil)
	}
	return nil
}

func lookDNSNone(_ context.Context, x *exam) error {
	file, servers, local, err := x.resolvConf()
	const mend = "nothing has to be done, unless pods are to resolve outside names: write a name server there, or name a file by --resolv-conf"
	switch {
	case err != nil && len(x.ResolvConf) > 0:
		x.found(Info, fmt.Sprintf("the name servers are not known: %v", err), mend, nil)
	case len(servers)+len(local) == 0:
		x.found(Info, file+" names no name server", mend, nil)
	}
	return nil
}

func lookRoute(_ context.Context, x *exam) error {
	addrs, err := x.sys.defaultRoute()
	if err == nil && len(addrs) == 0 {
		x.found(Info, "there is no default route", "nothing has to be done, unless images are to be pulled from elsewhere", nil)
	}
	return err
}
