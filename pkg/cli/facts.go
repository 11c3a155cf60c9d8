package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"skiff/internal/netx"
	"skiff/pkg/config"
	"skiff/pkg/paths"
)

// gatherFacts asks the machine what config.Complete needs to know.
func gatherFacts() (config.Facts, error) {
	var f config.Facts
	var err error
	if f.Hostname, err = os.Hostname(); err != nil {
		return f, fmt.Errorf("read host name: %w", err)
	}
	if f.WorkingDir, err = os.Getwd(); err != nil {
		return f, fmt.Errorf("find working directory: %w", err)
	}
	switch route, err := netx.DefaultRouteAddress(); {
	case err == nil:
		f.RouteAddresses = []netip.Addr{route}
	case !errors.Is(err, netx.ErrNoAddress):
		return f, fmt.Errorf("find this host's address: %w; set --node-ip", err)
	}
	if f.Addresses, err = netx.HostAddresses(); err != nil {
		return f, fmt.Errorf("find this host's addresses: %w", err)
	}
	f.ResolvConf = hostResolvConf(paths.ResolvConf, paths.SystemdResolvConf)
	return f, nil
}

// hostResolvConf is the first file that names a server a pod can reach; a stub
// on a loopback address cannot be, since a pod has its own loopback.
func hostResolvConf(files ...string) string {
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // not there, so it names no server
		}
		for line := range strings.Lines(string(data)) {
			fields := strings.Fields(line)
			if len(fields) < 2 || fields[0] != "nameserver" {
				continue
			}
			if a, err := netip.ParseAddr(fields[1]); err == nil && !a.IsLoopback() && !a.IsUnspecified() {
				return file
			}
		}
	}
	return ""
}
