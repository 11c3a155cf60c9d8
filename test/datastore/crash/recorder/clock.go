package recorder

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Clock is the wall clock that a program sees. Its monotonic clock is the
// machine's: no jump changes that one.
type Clock struct{ offset atomic.Int64 }

// Set moves the clock so far away from the true time.
func (c *Clock) Set(d time.Duration) { c.offset.Store(int64(d)) }

// tell answers a question for the time.
func (c *Clock) tell(n *notification) (verdict, error) {
	ts := unix.NsecToTimespec(time.Now().UnixNano() + c.offset.Load())
	into := unsafe.Slice((*byte)(unsafe.Pointer(&ts)), unsafe.Sizeof(ts))
	if err := poke(n, uintptr(n.args[1]), into); err != nil {
		return goOn, fmt.Errorf("tell the time: %w", err)
	}
	return refuse(0), nil
}

// The entries of the auxiliary vector that tell a program where the kernel's
// own code is in its memory, which tells the time without asking the kernel.
const (
	auxNull   = 0
	auxIgnore = 1
	auxVDSO   = 33
)

// hideVDSO lets a program that starts ask the kernel for the time. It is
// called when the C library prepares itself; Go's runtime looks for that code
// later.
func hideVDSO(n *notification) error {
	at, err := startOfStack(n.pid)
	if err != nil {
		return err
	}
	word := func() (uint64, error) {
		b := make([]byte, 8)
		_, err := peek(n, b, at)
		at += 8
		return binary.NativeEndian.Uint64(b), err
	}
	// The count of arguments, the arguments, a zero, the environment, a zero.
	count, err := word()
	at += uintptr(8 * (count + 1))
	for env := uint64(1); env != 0 && err == nil; {
		env, err = word()
	}
	for err == nil {
		entry := at
		var key uint64
		key, err = word()
		at += 8 // the value
		switch {
		case err == nil && key == auxVDSO:
			return poke(n, entry, binary.NativeEndian.AppendUint64(nil, auxIgnore))
		case err == nil && key == auxNull:
			return nil
		}
	}
	return fmt.Errorf("read the start of the stack: %w", err)
}

// startOfStack is where the kernel has put the program's arguments.
func startOfStack(pid uint32) (uintptr, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	fields := bytes.Fields(rest)
	const startStack = 28 - 3 // the first field of rest is the third
	if len(fields) <= startStack {
		return 0, fmt.Errorf("%q has too few fields", stat)
	}
	at, err := strconv.ParseUint(string(fields[startStack]), 10, 64)
	if err != nil || at == 0 {
		return 0, fmt.Errorf("where the stack of process %d starts: %d, %w", pid, at, err)
	}
	return uintptr(at), nil
}

// poke writes memory of the thread that waits.
func poke(n *notification, address uintptr, data []byte) error {
	_, err := unix.ProcessVMWritev(int(n.pid),
		[]unix.Iovec{{Base: &data[0], Len: uint64(len(data))}},
		[]unix.RemoteIovec{{Base: address, Len: len(data)}}, 0)
	return err
}
