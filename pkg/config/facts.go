package config

import "net/netip"

// Facts is what Complete needs to know about the machine. The caller gathers
// it, so that a configuration can be completed for a machine in a test.
type Facts struct {
	Hostname string
	// WorkingDir is what relative paths are relative to.
	WorkingDir string
	// RouteAddresses are the addresses that the host's default routes use as
	// their source, at most one per IP family.
	RouteAddresses []netip.Addr
	// Addresses are all addresses of the host with global scope, the most
	// useful first. Those of skiff's own bridges do no harm here.
	Addresses []netip.Addr
	// NodeID returns a few letters that this machine has to itself, and keeps.
	// It is called if --with-node-id is set.
	NodeID func() (string, error)
}

// InternalAddress is put on the loopback interface, and is the node's address,
// when the host has no address of its own.
func InternalAddress() netip.Addr { return netip.AddrFrom4([4]byte{10, 44, 0, 1}) }
