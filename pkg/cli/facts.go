package cli

import (
	"fmt"
	"os"

	"skiff/internal/netx"
	"skiff/pkg/config"
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
	if f.RouteAddresses, err = netx.DefaultRouteAddresses(); err != nil {
		return f, fmt.Errorf("find this host's address: %w; set --node-ip", err)
	}
	if f.Addresses, err = netx.HostAddresses(); err != nil {
		return f, fmt.Errorf("find this host's addresses: %w", err)
	}
	return f, nil
}
