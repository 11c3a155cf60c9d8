package main

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"skiff/test/hosts"
)

// An idle agent's packets are told apart by their times and sizes, since what
// is in them is encrypted.
const (
	// withBody is the least payload of a request that has a body. At rest these
	// are leases and the node's status.
	withBody = 400
	// began is how much earlier the request's head may have been sent, answered
	// how long what belongs to the request may take.
	began, answered = 20 * time.Millisecond, 500 * time.Millisecond
	// small is the most payload in the tunnel, where there are pings only, and the
	// kernel's questions without any.
	small = 64
	// inTunnel is how many of them there are in a minute at least; on other
	// connections that are quiet it is one or two.
	inTunnel = 10
)

// day is the bytes of a day's traffic by what it is for.
type day struct{ leases, tunnel, rest float64 }

// tap records the packets of a host's card for a window.
func (n *node) tap(window time.Duration) (packets []hosts.Packet) {
	stop := n.Tap(func(p hosts.Packet) { packets = append(packets, p) })
	time.Sleep(window)
	stop()
	return packets
}

// agentEnd is the address and port of the agent's end of a connection.
func agentEnd(p hosts.Packet) netip.AddrPort {
	if p.Out {
		return p.From
	}
	return p.To
}

// split says what packets were for. Leases and the node's status are the
// requests with a body on the connection that has most of them, which is the
// kubelet's: all that passes around the same time, but not in the tunnel, since
// others hear of a status at once. Acknowledgements count with what they
// acknowledge.
func split(packets []hosts.Packet, window time.Duration) day {
	requests, pings, other := map[netip.AddrPort]int{}, map[netip.AddrPort]int{}, map[netip.AddrPort]bool{}
	for _, p := range packets {
		switch end := agentEnd(p); {
		case !p.TCP:
		case p.Payload <= small:
			pings[end]++
		default:
			other[end] = true
			if p.Out && p.Payload >= withBody {
				requests[end]++
			}
		}
	}
	kubelet := most(requests)
	var leases []time.Time
	for _, p := range packets {
		if p.TCP && p.Out && p.Payload >= withBody && p.From == kubelet {
			leases = append(leases, p.At)
		}
	}
	var sum day
	for _, p := range packets {
		end := agentEnd(p)
		for len(leases) > 1 && p.At.After(leases[0].Add(answered)) {
			leases = leases[1:]
		}
		switch {
		case p.TCP && !other[end] && float64(pings[end]) >= inTunnel*window.Minutes():
			sum.tunnel += float64(p.Size)
		case len(leases) > 0 && p.At.After(leases[0].Add(-began)) && p.At.Before(leases[0].Add(answered)):
			sum.leases += float64(p.Size)
		default:
			sum.rest += float64(p.Size)
		}
	}
	days := 24 / window.Hours()
	return day{sum.leases * days, sum.tunnel * days, sum.rest * days}
}

// most is the key with the highest count.
func most(counts map[netip.AddrPort]int) netip.AddrPort {
	keys := slices.SortedFunc(maps.Keys(counts), netip.AddrPort.Compare)
	if len(keys) == 0 {
		return netip.AddrPort{}
	}
	return slices.MaxFunc(keys, func(a, b netip.AddrPort) int { return cmp.Compare(counts[a], counts[b]) })
}
