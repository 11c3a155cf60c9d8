package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skiff/internal/netx"
	"skiff/pkg/clock"
	"skiff/pkg/preflight"
	"skiff/pkg/process"
)

// system is what the checks ask of the machine besides reading its files. Tests
// have another one.
type system struct {
	root         bool // this process may see and do everything
	run          func(ctx context.Context, name string, args ...string) (string, error)
	clock        clock.Source
	tcpFree      func(netip.AddrPort) error
	udpFree      func(netip.AddrPort) error
	links        func() ([]link, error)
	defaultRoute func() ([]netip.Addr, error)
	nftables     func() error            // whether the kernel has them
	canMake      func(kind string) error // an interface of a kind, in a network of its own
	openFiles    func() (hard uint64, err error)
	legacy       func(table string) ([]byte, *legacyInfo, error)
}

// link is a network interface.
type link struct {
	name, kind string
	ports      int // of a bridge
	addrs      []netip.Prefix
	udpPort    int // of a VXLAN
}

func thisMachine() system {
	return system{
		root: unix.Geteuid() == 0, run: run, clock: clock.Machine(),
		tcpFree: netx.CheckPortFree, udpFree: netx.CheckUDPPortFree,
		links: listLinks, defaultRoute: netx.DefaultRouteAddresses,
		nftables: preflight.ProbeNFTables, canMake: canMake, openFiles: openFiles, legacy: readLegacy,
	}
}

// maxRules is how much nft may say about one table.
const maxRules = 16 << 20

// run asks one of the host's tools, in English.
func run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := process.Output(ctx, process.Command{Path: name, Args: args, Env: append(os.Environ(), "LC_ALL=C"), MaxOutput: maxRules})
	return string(out), err
}

func listLinks() ([]link, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	var out []link
	for _, l := range all {
		found := link{name: l.Attrs().Name, kind: l.Type()}
		for _, other := range all {
			if other.Attrs().MasterIndex == l.Attrs().Index {
				found.ports++
			}
		}
		if vx, ok := l.(*netlink.Vxlan); ok {
			found.udpPort = vx.Port
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", found.name, err)
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok {
				ones, _ := a.Mask.Size()
				found.addrs = append(found.addrs, netip.PrefixFrom(ip.Unmap(), ones))
			}
		}
		out = append(out, found)
	}
	return out, nil
}

// canMake makes a network interface of a kind in a network namespace of its
// own, which the kernel removes with it: the real thing, whatever is written
// about the kernel.
func canMake(kind string) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make a network namespace: %w", err)
			}
			links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return fmt.Errorf("talk to the kernel: %w", err)
			}
			defer links.Close()
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "skiff-probe"
			var l netlink.Link = &netlink.GenericLink{LinkAttrs: attrs, LinkType: kind}
			switch kind {
			case "veth":
				l = &netlink.Veth{LinkAttrs: attrs, PeerName: "skiff-peer"}
			case "bridge":
				l = &netlink.Bridge{LinkAttrs: attrs}
			case "vxlan":
				l = &netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 8472}
			case "wireguard":
				l = &netlink.Wireguard{LinkAttrs: attrs}
			}
			return links.LinkAdd(l)
		}()
	}()
	return <-done
}

func openFiles() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	return limit.Max, nil
}

// now is the machine's clock.
func (d *Doctor) now() time.Time { return d.sys.clock.Now() }

// alive reports whether a process exists.
func (d *Doctor) alive(pid string) bool {
	_, err := os.Stat(d.Path("/proc/" + pid))
	return err == nil
}
