// Command announce is a CNI plug-in that ends the chain: it makes a pod tell
// its neighbours which link-layer address its IP addresses have now.
//
// Pod addresses are used again, with another link-layer address each time, and
// the host and the other pods go on sending to the old one for ten seconds and
// more: probes of a healthy pod fail. The bridge plug-in asks the kernel for an
// announcement too, but the kernel makes it as the interface comes up, which is
// before the bridge forwards for it.
//
// Configuration: {"type": "announce"}. It has no options.
//
// Source: CNI specification 1.0.0; Linux, Documentation/networking/ip-sysctl
// (arp_notify, ndisc_notify) and inetdev_event in net/ipv4/devinet.c.
package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
)

func main() {
	nothing := func(*skel.CmdArgs) error { return nil }
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Del: nothing, Check: nothing, GC: nothing, Status: nothing},
		version.All, "announce: tells neighbours about a pod's addresses")
}

func add(args *skel.CmdArgs) error {
	var conf types.PluginConf
	if err := json.Unmarshal(args.StdinData, &conf); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if err := version.ParsePrevResult(&conf); err != nil {
		return fmt.Errorf("read the result of the plug-in before: %w", err)
	}
	if conf.PrevResult == nil {
		return errors.New("announce has to follow a plug-in that makes an interface")
	}
	if err := ns.WithNetNSPath(args.Netns, func(ns.NetNS) error { return announce(args.IfName) }); err != nil {
		return fmt.Errorf("announce the addresses of %s: %w", args.IfName, err)
	}
	result, err := current.GetResult(conf.PrevResult)
	if err != nil {
		return err
	}
	return types.PrintResult(result, conf.CNIVersion)
}

// announce gives an interface the address it has: the kernel then announces
// its IP addresses, as the bridge plug-in has set arp_notify and ndisc_notify.
func announce(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetHardwareAddr(link, link.Attrs().HardwareAddr)
}
