package doctor

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"skiff/pkg/paths"
)

// The kernel's interface of the old iptables.
//
// Source: Linux, include/uapi/linux/netfilter_ipv4/ip_tables.h and
// include/uapi/linux/netfilter/x_tables.h.
const (
	getInfo, getEntries = 64, 65 // IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES
	nameLen             = 32     // XT_TABLE_MAXNAMELEN
	headLen             = 40     // struct ipt_get_entries, aligned
	entryLen            = 112    // struct ipt_entry
	invertIn, invertOut = 0x01, 0x02
	invertSrc           = 0x08
	invertDst           = 0x10
	invertProto         = 0x40
	flagGoto            = 0x02
	verdictDrop         = -1
	verdictAccept       = -2
	verdictReturn       = -5
)

// legacyInfo is struct ipt_getinfo.
type legacyInfo struct {
	Name      [nameLen]byte
	Hooks     uint32
	Entry     [5]uint32 // where each hook begins
	Underflow [5]uint32
	Count     uint32
	Size      uint32
}

// The hooks that matter, by their numbers.
func legacyHooks() map[string]int { return map[string]int{"input": 1, "forward": 2} }

// readLegacy reads a table. It must be one that is there: the kernel makes a
// table that is asked for.
func readLegacy(table string) ([]byte, *legacyInfo, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, nil, fmt.Errorf("open raw socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }() // It was only asked.
	info := &legacyInfo{}
	copy(info.Name[:], table)
	if err := getsockopt(fd, getInfo, unsafe.Pointer(info), unsafe.Sizeof(*info)); err != nil {
		return nil, nil, fmt.Errorf("read iptables' table %s: %w", table, err)
	}
	buf := make([]byte, headLen+info.Size)
	copy(buf, table)
	binary.NativeEndian.PutUint32(buf[nameLen:], info.Size)
	if err := getsockopt(fd, getEntries, unsafe.Pointer(&buf[0]), uintptr(len(buf))); err != nil {
		return nil, nil, fmt.Errorf("read iptables' table %s: %w", table, err)
	}
	return buf[headLen:], info, nil
}

func getsockopt(fd, option int, p unsafe.Pointer, size uintptr) error {
	length := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IP, uintptr(option), uintptr(p), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func lookLegacy(_ context.Context, x *exam) error {
	tables := strings.Fields(x.Read(paths.IPTablesNames))
	if !slices.Contains(tables, "filter") {
		return nil
	}
	if !x.sys.root {
		return errNotRoot
	}
	entries, info, err := x.sys.legacy("filter")
	if err != nil {
		return err
	}
	var pods []string
	for _, p := range x.PodCIDR {
		if p.Addr().Is4() {
			pods = append(pods, p.String())
		}
	}
	for _, hook := range []string{"forward", "input"} {
		var lost []string
		for _, p := range x.packets() {
			if p.hook == hook && p.src.Is4() {
				v, unsure := legacyRules(entries).decide(int(info.Entry[legacyHooks()[hook]]), p, 0)
				if v == dropped && !unsure {
					lost = append(lost, p.what)
				}
			}
		}
		if len(lost) == 0 {
			continue
		}
		var mend []string
		for _, p := range pods {
			mend = append(mend, fmt.Sprintf("iptables-legacy -I %s -s %s -j ACCEPT", strings.ToUpper(hook), p))
			if hook == "forward" {
				mend = append(mend, fmt.Sprintf("iptables-legacy -I FORWARD -d %s -j ACCEPT", p))
			}
		}
		x.found(Warning, fmt.Sprintf("the old iptables' chain %s drops packets %s", strings.ToUpper(hook), strings.Join(lost, ", ")),
			strings.Join(mend, "; ")+"; or clear the old tables, if nothing needs them: iptables-legacy -P FORWARD ACCEPT, iptables-legacy -F", nil)
	}
	return nil
}

// legacyRules is the table's entries, one after the other; a chain is where an
// offset points to.
type legacyRules []byte

// decide follows a chain from an offset on, as ipt_do_table does.
func (r legacyRules) decide(at int, p packet, depth int) (v verdict, unsure bool) {
	const deepest = 64
	for depth <= deepest && at >= 0 && at+entryLen <= len(r) {
		e := r[at:]
		target, next := int(binary.NativeEndian.Uint16(e[88:])), int(binary.NativeEndian.Uint16(e[90:]))
		if next < entryLen || at+next > len(r) || target < entryLen || target+36 > next {
			return carriesOn, true // not as it is documented
		}
		match := entryMatches(e, p)
		if match == yes && target > entryLen {
			match = maybe // a match of an extension, which is not looked into
		}
		at += next
		name := string(bytes.TrimRight(e[target+2:target+2+29], "\x00"))
		code := int(int32(binary.NativeEndian.Uint32(e[target+32:])))
		switch {
		case match == no:
		case match == maybe:
			unsure = unsure || name == "" && (code == verdictAccept || code >= 0)
		case name == "REJECT":
			return dropped, unsure
		case name == "ERROR":
			return carriesOn, unsure
		case name != "": // LOG and the like
		case code == verdictDrop:
			return dropped, unsure
		case code == verdictAccept:
			return accepted, unsure
		case code == verdictReturn:
			return carriesOn, unsure
		case code >= 0 && code != at:
			v, doubt := r.decide(code, p, depth+1)
			unsure = unsure || doubt
			if v != carriesOn || e[82]&flagGoto != 0 {
				return v, unsure
			}
		}
	}
	return carriesOn, true
}

// entryMatches compares the part of an entry that every one has: struct ipt_ip.
func entryMatches(e []byte, p packet) truth {
	inverted := e[83]
	differs := func(t truth, flag byte) truth {
		if inverted&flag != 0 {
			return t.not()
		}
		return t
	}
	proto := binary.NativeEndian.Uint16(e[80:])
	numbers := map[string]uint16{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}
	match := min(
		differs(masked(p.src, e[0:4], e[8:12]), invertSrc),
		differs(masked(p.dst, e[4:8], e[12:16]), invertDst),
		differs(sameInterface(p.in, e[16:32], e[48:64]), invertIn),
		differs(sameInterface(p.out, e[32:48], e[64:80]), invertOut),
	)
	if proto != 0 {
		match = min(match, differs(is(proto == numbers[p.proto]), invertProto))
	}
	return match
}

func masked(a netip.Addr, want, mask []byte) truth {
	for i, b := range a.As4() {
		if b&mask[i] != want[i] {
			return no
		}
	}
	return yes
}

func sameInterface(name string, want, mask []byte) truth {
	if mask[0] == 0 {
		return yes // any
	}
	if name == "" {
		return maybe
	}
	var padded [16]byte
	copy(padded[:], name)
	for i := range padded {
		if padded[i]&mask[i] != want[i]&mask[i] {
			return no
		}
	}
	return yes
}
