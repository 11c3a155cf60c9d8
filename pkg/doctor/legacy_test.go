package doctor

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"skiff/pkg/paths"
)

// inNetwork runs f in a network namespace of its own, on another goroutine.
func inNetwork(t *testing.T, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a network namespace takes root")
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Skipf("make a network namespace: %v", err)
	}
}

// TestLegacy reads the kernel's own table, and one with another policy.
func TestLegacy(t *testing.T) {
	inNetwork(t, func() {
		entries, info, err := readLegacy("filter")
		if err != nil {
			t.Logf("this kernel has no old iptables: %v", err)
			return
		}
		forward := int(info.Entry[legacyHooks()["forward"]])
		p := healthy(t)
		p.write(paths.IPTablesNames, "filter\n")
		p.sys.legacy = func(table string) ([]byte, *legacyInfo, error) { return readLegacy(table) }
		if r := p.Examine(t.Context(), Everything); len(r.NotLookedAt) > 0 || len(legacyFindings(r)) > 0 {
			t.Errorf("the kernel's own table: %+v %+v", legacyFindings(r), r.NotLookedAt)
		}
		// The policy is the verdict of the chain's last entry.
		policy := int(info.Underflow[legacyHooks()["forward"]])
		if policy != forward {
			t.Errorf("the chain is not empty: %+v", info)
			return
		}
		target := policy + int(binary.NativeEndian.Uint16(entries[policy+88:]))
		drop := int32(verdictDrop)
		binary.NativeEndian.PutUint32(entries[target+32:], uint32(drop))
		if err := replaceLegacy(info, entries); err != nil {
			t.Errorf("set the policy: %v", err)
			return
		}
		r := p.Examine(t.Context(), Everything)
		list := legacyFindings(r)
		if len(list) != 1 || !strings.Contains(list[0].Problem, "FORWARD drops packets from pods to other networks, between pods, from other networks to pods") {
			t.Errorf("policy DROP: %+v %+v", list, r.NotLookedAt)
		}
	})
}

func legacyFindings(r *Report) []Finding {
	var list []Finding
	for _, f := range r.Findings {
		if f.ID == "firewall-iptables" {
			list = append(list, f)
		}
	}
	return list
}

// replaceLegacy writes a table: struct ipt_replace, then the entries.
func replaceLegacy(info *legacyInfo, entries []byte) error {
	const replace = 64 // IPT_SO_SET_REPLACE
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	counters := make([]byte, 16*int(info.Count))
	head := struct {
		Name             [nameLen]byte
		Hooks, Count     uint32
		Size             uint32
		Entry, Underflow [5]uint32
		Counters         uint32
		Pointer          uintptr
	}{info.Name, info.Hooks, info.Count, info.Size, info.Entry, info.Underflow, info.Count, uintptr(unsafe.Pointer(&counters[0]))}
	buf := append(unsafe.Slice((*byte)(unsafe.Pointer(&head)), unsafe.Sizeof(head)), entries...)
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_IP, replace, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0)
	runtime.KeepAlive(counters)
	if errno != 0 {
		return errno
	}
	return nil
}

// TestCanMake makes the real interfaces that every kernel for skiff has.
func TestCanMake(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("interfaces take root")
	}
	for _, kind := range []string{"veth", "bridge"} {
		if err := canMake(kind); err != nil {
			t.Errorf("make a %s: %v", kind, err)
		}
	}
	if err := canMake("no-such-kind"); err == nil {
		t.Error("an interface of a kind that there is not")
	}
	if left, err := filepath.Glob("/sys/class/net/skiff-p*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
