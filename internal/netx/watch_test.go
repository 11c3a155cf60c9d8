package netx

import (
	"context"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestWatch changes addresses until the watch has told of some.
func TestWatch(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a network namespace takes root")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("make a network namespace: %v", err)
	}
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE) // stays in this namespace
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	lo, err := links.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := links.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	changer := make(chan error, 1)
	go func() {
		address := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(32, 32)}}
		for ctx.Err() == nil {
			if err := links.AddrAdd(lo, address); err != nil {
				changer <- err
				return
			}
			time.Sleep(20 * time.Millisecond)
			if err := links.AddrDel(lo, address); err != nil {
				changer <- err
				return
			}
		}
		changer <- nil
	}()
	told := 0
	err = Watch(ctx, func() {
		if told++; told == 4 {
			cancel()
		}
	})
	if err != nil || told < 4 {
		t.Errorf("Watch told of %d changes and returned %v", told, err)
	}
	if err := <-changer; err != nil {
		t.Error(err)
	}
}
