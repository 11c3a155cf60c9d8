package netx

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// procDir is where the kernel shows processes and sockets.
const procDir = "/proc"

// PortInUseError says that somebody else listens where we want to.
type PortInUseError struct {
	Address netip.AddrPort
	PID     int    // 0 if it cannot be told, for example without root
	Process string // the command name; empty if it cannot be told
	Err     error
}

// Error names the address and, where known, its holder.
func (e *PortInUseError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("address %s is already in use", e.Address)
	}
	return fmt.Sprintf("address %s is already in use by process %d (%s)", e.Address, e.PID, e.Process)
}

// Unwrap returns the error of the system call.
func (e *PortInUseError) Unwrap() error { return e.Err }

// ListenTCP opens a TCP listener. If the port is taken the error is a
// *PortInUseError that names the holder. Connections that are silent for two
// minutes are asked whether there is a client, which is given up three minutes
// after its last word, as by Go's own setting; but that asks every 15 seconds,
// which for a node on a metered line is 0.6 MB a day and connection.
func ListenTCP(addr netip.AddrPort) (*net.TCPListener, error) {
	c := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 2 * time.Minute, Interval: 15 * time.Second, Count: 4}}
	c.SetMultipathTCP(false)
	l, err := c.Listen(context.Background(), "tcp", addr.String())
	if err != nil {
		return nil, explainListen(addr, err)
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("listen on %s: got a %T", addr, l), l.Close())
	}
	return tcp, nil
}

// CheckPortFree reports nil when a TCP listener could be opened now, else the
// error of ListenTCP.
func CheckPortFree(addr netip.AddrPort) error {
	l, err := ListenTCP(addr)
	if err != nil {
		return err
	}
	return l.Close()
}

// CheckUDPPortFree is CheckPortFree for UDP. The error does not name the
// holder.
func CheckUDPPortFree(addr netip.AddrPort) error {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return &PortInUseError{Address: addr, Err: err}
	case err != nil:
		return fmt.Errorf("listen on %s: %w", addr, err)
	}
	return c.Close()
}

func explainListen(addr netip.AddrPort, err error) error {
	if !errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("listen on %s: %w", addr, err)
	}
	held := &PortInUseError{Address: addr, Err: err}
	// The holder is a kindness: whatever keeps us from finding it is no error.
	if inode, ok := listenerInode(procDir, addr); ok {
		held.PID, held.Process = socketOwner(procDir, inode)
	}
	return held
}

// listenerInode finds the socket that listens on the port, at addr or at an
// address that includes it.
func listenerInode(proc string, addr netip.AddrPort) (string, bool) {
	for _, table := range []string{"tcp", "tcp6"} {
		// Not proc/net: that is the network of the process's first thread.
		f, err := os.Open(filepath.Join(proc, "thread-self", "net", table))
		if err != nil {
			continue
		}
		inode, ok := scanListeners(f, addr)
		f.Close()
		if ok {
			return inode, true
		}
	}
	return "", false
}

// scanListeners reads the format of proc_net_tcp(5): sl local_address
// rem_address st … inode, where st 0A is LISTEN.
func scanListeners(r io.Reader, addr netip.AddrPort) (string, bool) {
	const listen = "0A"
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != listen {
			continue
		}
		local, ok := parseProcAddress(fields[1])
		if !ok || local.Port() != addr.Port() {
			continue
		}
		if local.Addr().IsUnspecified() || addr.Addr().IsUnspecified() || local.Addr() == addr.Addr() {
			return fields[9], true
		}
	}
	return "", false
}

// parseProcAddress reads "0100007F:1F90": 32-bit groups in host byte order,
// which is little-endian on every platform skiff runs on, and a port.
func parseProcAddress(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	if !ok {
		return netip.AddrPort{}, false
	}
	raw, err := hex.DecodeString(host)
	if err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		raw[i], raw[i+1], raw[i+2], raw[i+3] = raw[i+3], raw[i+2], raw[i+1], raw[i]
	}
	addr, ok := netip.AddrFromSlice(raw)
	if !ok {
		return netip.AddrPort{}, false
	}
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(p)), true
}

// socketOwner finds a process that has the socket open.
func socketOwner(proc, inode string) (int, string) {
	want := "socket:[" + inode + "]"
	dirs, err := os.ReadDir(proc)
	if err != nil {
		return 0, ""
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || !hasOpen(filepath.Join(proc, d.Name(), "fd"), want) {
			continue
		}
		name, err := os.ReadFile(filepath.Join(proc, d.Name(), "comm"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return pid, ""
		}
		return pid, strings.TrimSpace(string(name))
	}
	return 0, ""
}

func hasOpen(fdDir, want string) bool {
	fds, err := os.ReadDir(fdDir)
	if err != nil {
		return false
	}
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(fdDir, fd.Name()))
		if err == nil && target == want {
			return true
		}
	}
	return false
}
