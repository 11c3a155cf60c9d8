package flannel

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setTXChecksum is a command of the kernel's ethtool interface.
//
// Source: Linux, include/uapi/linux/ethtool.h (ETHTOOL_STXCSUM, struct
// ethtool_value) and include/uapi/linux/if.h (struct ifreq).
const setTXChecksum = 0x17

type ethtoolValue struct{ command, data uint32 }

type ethtoolRequest struct {
	name  [unix.IFNAMSIZ]byte
	value *ethtoolValue
	_     [16]byte // the rest of the kernel's union
}

// checksumInSoftware makes the kernel fill in the checksums of what is sent by
// the interface itself, before the packet becomes part of another.
func checksumInSoftware(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("switch off checksum offload: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	value := &ethtoolValue{command: setTXChecksum}
	request := ethtoolRequest{value: value}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(value)
	if errno != 0 {
		return fmt.Errorf("switch off checksum offload: %w", errno)
	}
	return nil
}
