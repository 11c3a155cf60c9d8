package config

import (
	"net/netip"
	"slices"
)

// Readdress returns the node's addresses now that the host's may be others: f
// are the facts of this moment, now the node's addresses of the moment before.
// An address that the host still has stays the node's, even if another has
// become better: each change disturbs somebody. One that is gone is replaced by
// the host's best, and if there is none it stays: cables come back. Addresses
// that the user chose never change.
func (c Completed) Readdress(f Facts, now []netip.Addr) []netip.Addr {
	if !c.ChosenIP {
		return now
	}
	next := slices.Clone(now)
	for i, have := range now {
		if have != InternalAddress() && slices.Contains(f.Addresses, have) {
			continue
		}
		if found, err := c.chooseAddress(f, have.Is4()); err == nil && found.IsValid() {
			next[i] = found
		}
	}
	return next
}

// Advertise returns the address at which other nodes find this server when the
// node has the given ones.
func (c Completed) Advertise(node []netip.Addr) netip.Addr {
	if !c.ChosenAdvertise || len(node) == 0 {
		return c.Server.AdvertiseAddress
	}
	return node[0]
}
