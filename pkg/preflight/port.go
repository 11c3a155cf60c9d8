package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Port is a TCP port that skiff will listen on.
type Port struct {
	Address netip.AddrPort
	// For says who needs it and how to choose another one, in parentheses
	// behind the port: "the API, see --https-listen-port".
	For string
}

// Ports checks that every port is free. The error joins one line for each that
// is not, naming the process that has it if the kernel tells.
func Ports(ctx context.Context, ports []Port) error {
	var errs []error
	for _, p := range ports {
		if err := checkPort(ctx, p); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func checkPort(ctx context.Context, p Port) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", p.Address.String())
	if err == nil {
		return l.Close()
	}
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		user := "another process"
		if name := listener("/proc", p.Address.Port()); name != "" {
			user = name
		}
		return fmt.Errorf("port %d (%s) is in use by %s; stop it, or choose another port", p.Address.Port(), p.For, user)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("address %s (%s) is not one of this host's", p.Address.Addr(), p.For)
	default:
		return fmt.Errorf("listen on %s (%s): %w", p.Address, p.For, err)
	}
}

// listener names the process that listens on a TCP port, or returns "". A
// process in another PID namespace cannot be seen.
func listener(proc string, port uint16) string {
	inodes := map[string]bool{}
	for _, file := range []string{"net/tcp", "net/tcp6"} {
		data, err := os.ReadFile(filepath.Join(proc, file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			// local address, ..., state (0A is LISTEN), ..., inode; proc_net(5)
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	if len(inodes) == 0 {
		return ""
	}
	entries, err := os.ReadDir(proc)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil && holdsAny(filepath.Join(proc, e.Name(), "fd"), inodes) {
			comm, _ := os.ReadFile(filepath.Join(proc, e.Name(), "comm"))
			return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(comm)), e.Name())
		}
	}
	return ""
}

func holdsAny(fdDir string, inodes map[string]bool) bool {
	fds, err := os.ReadDir(fdDir)
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join(fdDir, fd.Name())); err == nil && inodes[target] {
			return true
		}
	}
	return false
}
