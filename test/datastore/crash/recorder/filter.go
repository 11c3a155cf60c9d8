package recorder

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ficlone and ficlonerange share the blocks of one file with another.
const (
	ficlone      = 0x40049409
	ficlonerange = 0x4020940d
)

// The layout of the kernel's struct seccomp_data.
const (
	dataNr   = 0
	dataArgs = 16
)

// program is the filter: the calls that can change a file stop and are
// reported, unless their flags say that they do not.
func program() []unix.SockFilter {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		bits  = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		and   = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
	)
	report := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF}
	allow := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW}
	refuse := func(e unix.Errno) unix.SockFilter {
		return unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(e)}
	}
	argument := func(n uint32) unix.SockFilter { return unix.SockFilter{Code: load, K: dataArgs + 8*n} }

	// on puts a body behind a test for a system call.
	var p []unix.SockFilter
	on := func(nr uintptr, body ...unix.SockFilter) {
		p = append(p, unix.SockFilter{Code: equal, K: uint32(nr), Jf: uint8(len(body))})
		p = append(p, body...)
	}
	p = append(p, unix.SockFilter{Code: load, K: dataNr})
	for _, nr := range reported {
		on(nr, report)
	}
	const changing = unix.O_CREAT | unix.O_TRUNC | unix.O_TMPFILE&^unix.O_DIRECTORY
	on(unix.SYS_OPENAT, argument(2), unix.SockFilter{Code: bits, K: changing, Jt: 0, Jf: 1}, report, allow)
	for _, nr := range opens {
		on(nr, argument(1), unix.SockFilter{Code: bits, K: changing, Jt: 0, Jf: 1}, report, allow)
	}
	// Memory that is shared with a file and can be written.
	on(unix.SYS_MMAP,
		argument(2), unix.SockFilter{Code: bits, K: unix.PROT_WRITE, Jt: 0, Jf: 4},
		argument(3), unix.SockFilter{Code: and, K: unix.MAP_SHARED | unix.MAP_ANONYMOUS},
		unix.SockFilter{Code: equal, K: unix.MAP_SHARED, Jt: 0, Jf: 1}, report, allow)
	on(unix.SYS_CLOCK_GETTIME,
		argument(0), unix.SockFilter{Code: equal, K: unix.CLOCK_REALTIME, Jt: 0, Jf: 1}, report, allow)
	on(unix.SYS_IOCTL,
		argument(1), unix.SockFilter{Code: equal, K: ficlone, Jt: 1, Jf: 0},
		unix.SockFilter{Code: equal, K: ficlonerange, Jt: 0, Jf: 1}, refuse(unix.EOPNOTSUPP), allow)
	on(unix.SYS_IO_URING_SETUP, refuse(unix.ENOSYS))
	return append(p, allow)
}

// install puts the filter over the calling thread and what it executes.
func install() (int, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("give up privileges: %w", err)
	}
	filter := program()
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	listener, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return 0, fmt.Errorf("install filter (it needs Linux 5.19): %w", errno)
	}
	return int(listener), nil
}

// notification is the kernel's struct seccomp_notif.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

func (n *notification) receive(listener int) error {
	return control(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(n))
}

// response is the kernel's struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

func reply(listener int, id uint64, v verdict) error {
	resp := response{id: id, err: -int32(v.errno)}
	if v.proceed {
		resp.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	}
	return control(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&resp))
}

// waits reports whether the caller of a notification is still there.
func waits(listener int, id uint64) bool {
	return control(listener, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) == nil
}

func control(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
