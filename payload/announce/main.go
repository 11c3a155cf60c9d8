// Command announce is a CNI plug-in that makes a pod's addresses known, in two
// places.
//
// At the end of the chain it makes the pod tell its neighbours which link-layer
// address its IP addresses have now. Pod addresses are used again, with another
// link-layer address each time, and the host and the other pods go on sending
// to the old one for ten seconds and more: probes of a healthy pod fail. The
// bridge plug-in asks the kernel for an announcement too, but the kernel makes
// it as the interface comes up, which is before the bridge forwards for it.
// Configuration: {"type": "announce"}. It has no options.
//
// As an IPAM plug-in it lets host-local choose the addresses, and tells this
// node's skiff before the pod has them, which is when network policies for it
// come into force, and after they have been taken away. A pod whose sandbox is
// made anew gets the addresses it had, if they are free (memory.go).
//
// Source: CNI specification 1.0.0; Linux, Documentation/networking/ip-sysctl
// (arp_notify, ndisc_notify) and inetdev_event in net/ipv4/devinet.c.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
)

// name is what this plug-in is called in a configuration.
const name = "announce"

func main() {
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:    add,
		Del:    del,
		Check:  handOn(invoke.DelegateCheck),
		GC:     handOn(invoke.DelegateGC),
		Status: handOn(invoke.DelegateStatus),
	}, version.All, "announce: makes a pod's addresses known")
}

// config is the part of the configuration that matters here. For an IPAM
// plug-in Type is that of the plug-in that calls it.
type config struct {
	types.PluginConf
	IPAM struct {
		Type string `json:"type"`
		Gate string `json:"gate"`
		// Memory is a directory that survives a reboot.
		Memory memory `json:"memory"`
	} `json:"ipam"`
}

func (c config) isIPAM() bool { return c.Type != name && c.IPAM.Type == name }

func read(args *skel.CmdArgs) (config, error) {
	var conf config
	if err := json.Unmarshal(args.StdinData, &conf); err != nil {
		return config{}, fmt.Errorf("read configuration: %w", err)
	}
	return conf, nil
}

func add(args *skel.CmdArgs) error {
	conf, err := read(args)
	if err != nil {
		return err
	}
	if conf.isIPAM() {
		return allocate(args, conf)
	}
	if err := version.ParsePrevResult(&conf.PluginConf); err != nil {
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

// delegate is one of the functions of package invoke.
type delegate func(ctx context.Context, plugin string, conf []byte, exec invoke.Exec) error

// handOn leaves a command to host-local, if this is an IPAM plug-in; the other
// has nothing to do.
func handOn(to delegate) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		conf, err := read(args)
		if err != nil || !conf.isIPAM() {
			return err
		}
		return to(context.Background(), allocator, args.StdinData, nil)
	}
}

// allocator is the plug-in that chooses addresses.
const allocator = "host-local"

const (
	startWithin  = 10 * time.Second // skiff may just be starting
	answerWithin = 30 * time.Second
	again        = 50 * time.Millisecond
)

// del takes addresses back, and says so. If skiff does not run it will see for
// itself.
func del(args *skel.CmdArgs) error {
	conf, err := read(args)
	if err != nil || !conf.isIPAM() {
		return err
	}
	if err := invoke.DelegateDel(context.Background(), allocator, args.StdinData, nil); err != nil {
		return err
	}
	if conf.IPAM.Gate == "" {
		return nil
	}
	if conn, err := new(net.Dialer).DialContext(context.Background(), "unix", conf.IPAM.Gate); err == nil {
		_ = talk(conn, request{Sandbox: args.ContainerID})
	}
	return nil
}

// request and answer are those of skiff's pkg/agent/netpol.
type request struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	UID       string       `json:"uid"`
	Sandbox   string       `json:"sandbox"`
	IPs       []netip.Addr `json:"ips"`
}

type answer struct {
	Error string `json:"error"`
}

// allocate gets addresses, and returns them when skiff says that the pod may
// have them. Otherwise they are given back.
func allocate(args *skel.CmdArgs, conf config) error {
	ctx := context.Background()
	had := conf.IPAM.Memory.recall(podUID(args.Args))
	result, err := choose(ctx, args, had)
	if err != nil {
		return err
	}
	r, err := newRequest(args, result)
	if err == nil {
		err = conf.IPAM.Memory.keep(r.UID, had, r.IPs)
	}
	if err == nil && conf.IPAM.Gate != "" {
		err = ask(conf.IPAM.Gate, r)
	}
	if err != nil {
		return errors.Join(err, invoke.DelegateDel(ctx, allocator, args.StdinData, nil))
	}
	return types.PrintResult(result, conf.CNIVersion)
}

// choose has addresses chosen: those the pod had, if it can have them.
func choose(ctx context.Context, args *skel.CmdArgs, had []netip.Addr) (types.Result, error) {
	if len(had) > 0 {
		if conf, err := asking(args.StdinData, had); err == nil {
			if result, err := invoke.DelegateAdd(ctx, allocator, conf, nil); err == nil {
				return result, nil
			}
		}
	}
	return invoke.DelegateAdd(ctx, allocator, args.StdinData, nil)
}

// ask asks skiff whether the pod may have its addresses.
func ask(gate string, r request) error {
	conn, err := dial(gate)
	if err != nil {
		return fmt.Errorf("skiff, which has to know of a pod before it gets its address, does not run on this node: %w", err)
	}
	return talk(conn, r)
}

// talk sends a request and waits for the answer.
func talk(conn net.Conn, r request) error {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return fmt.Errorf("ask skiff about network policies: %w", err)
	}
	var a answer
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return fmt.Errorf("ask skiff about network policies: %w", err)
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return nil
}

// newRequest reads CNI_ARGS, in which containerd names the pod.
func newRequest(args *skel.CmdArgs, result types.Result) (request, error) {
	r := request{Sandbox: args.ContainerID}
	for arg := range strings.SplitSeq(args.Args, ";") {
		switch key, value, _ := strings.Cut(arg, "="); key {
		case "K8S_POD_NAMESPACE":
			r.Namespace = value
		case "K8S_POD_NAME":
			r.Name = value
		case "K8S_POD_UID":
			r.UID = value
		}
	}
	got, err := current.GetResult(result)
	if err != nil {
		return request{}, fmt.Errorf("read the result of %s: %w", allocator, err)
	}
	for _, ip := range got.IPs {
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return request{}, fmt.Errorf("read the result of %s: %v is not an address", allocator, ip.Address)
		}
		r.IPs = append(r.IPs, a.Unmap())
	}
	return r, nil
}

func dial(gate string) (net.Conn, error) {
	deadline := time.Now().Add(startWithin)
	for {
		conn, err := new(net.Dialer).DialContext(context.Background(), "unix", gate)
		if err == nil || time.Now().After(deadline) {
			return conn, err
		}
		<-time.After(again)
	}
}
