package hostchange

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"skiff/internal/netx"
)

// removeInterface removes an interface, and first what is plugged into it.
func removeInterface(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for interface %s: %w", name, err)
	}
	all, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var errs []error
	for _, l := range all {
		if l.Attrs().MasterIndex == link.Attrs().Index && l.Type() == "veth" {
			errs = append(errs, removeLink(l))
		}
	}
	return errors.Join(append(errs, removeLink(link))...)
}

func removeLink(link netlink.Link) error {
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove interface %s: %w", link.Attrs().Name, err)
	}
	return nil
}

func removeAddress(text string) error {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return fmt.Errorf("remove address: %w", err)
	}
	return netx.RemoveLoopbackAddress(addr)
}

// removeRoutes removes the routes that carry a protocol number.
func removeRoutes(text string) error {
	number, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("remove routes of protocol %q: %w", text, err)
	}
	var errs []error
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Protocol: netlink.RouteProtocol(number)}, netlink.RT_FILTER_PROTOCOL)
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			errs = append(errs, fmt.Errorf("list routes: %w", err))
		}
		for _, r := range routes {
			if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("remove route to %s: %w", r.Dst, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Numbers of the nftables protocol that package unix does not have.
//
// Source: Linux, include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h.
const (
	getTable    = unix.NFNL_SUBSYS_NFTABLES<<8 | 1
	deleteTable = unix.NFNL_SUBSYS_NFTABLES<<8 | 2
	tableName   = 1 // NFTA_TABLE_NAME
)

// family is the number of what nft calls a family.
func family(name string) (byte, error) {
	families := map[string]byte{"inet": unix.NFPROTO_INET, "ip": unix.NFPROTO_IPV4, "ip6": unix.NFPROTO_IPV6}
	if n, ok := families[name]; ok {
		return n, nil
	}
	return 0, fmt.Errorf("nftables has no family %q here", name)
}

// nfgenmsg stands at the beginning of each message.
func nfgenmsg(family byte, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
}

// HasTable reports whether nftables has a table, "inet name".
func HasTable(table string) (bool, error) {
	kind, name, _ := strings.Cut(table, " ")
	number, err := family(kind)
	if err != nil {
		return false, err
	}
	req := nl.NewNetlinkRequest(getTable, unix.NLM_F_ACK)
	req.AddRawData(nfgenmsg(number, 0))
	req.AddRawData(nl.NewRtAttr(tableName, nl.ZeroTerminated(name)).Serialize())
	_, err = req.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for nftables table %s: %w", table, err)
	}
	return true, nil
}

// removeTable deletes a table with all in it. There need not be an nft for it,
// which may have gone with the data.
func removeTable(table string) error {
	if there, err := HasTable(table); err != nil || !there {
		return err
	}
	kind, name, _ := strings.Cut(table, " ")
	number, err := family(kind)
	if err != nil {
		return err
	}
	if err := batch(deleteTable, append(nfgenmsg(number, 0), nl.NewRtAttr(tableName, nl.ZeroTerminated(name)).Serialize()...)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete nftables table %s: %w", table, err)
	}
	return nil
}

// batch makes one change of nftables, which takes changes in batches only.
func batch(kind int, payload []byte) error {
	s, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer s.Close()
	var data []byte
	add := func(kind, flags int, payload []byte) {
		m := &nl.NetlinkRequest{NlMsghdr: unix.NlMsghdr{
			Len: unix.SizeofNlMsghdr, Type: uint16(kind), Flags: uint16(unix.NLM_F_REQUEST | flags), Seq: uint32(len(data)) + 1, //nolint:gosec // Small numbers.
		}}
		m.AddRawData(payload)
		data = append(data, m.Serialize()...)
	}
	add(unix.NFNL_MSG_BATCH_BEGIN, 0, nfgenmsg(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES))
	add(kind, unix.NLM_F_ACK, payload)
	add(unix.NFNL_MSG_BATCH_END, 0, nfgenmsg(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES))
	if err := unix.Sendto(s.GetFd(), data, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	messages, _, err := s.Receive()
	if err != nil {
		return err
	}
	for _, m := range messages {
		if m.Header.Type != unix.NLMSG_ERROR || len(m.Data) < 4 {
			continue
		}
		if code := int32(binary.NativeEndian.Uint32(m.Data)); code != 0 { //nolint:gosec // It is a signed number.
			return unix.Errno(-code)
		}
	}
	return nil
}
