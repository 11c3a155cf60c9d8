package main

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/test/hosts"
)

// TestSplit: a minute of an idle agent with a lease, a status that a watch
// hears of, pings and a bookmark.
func TestSplit(t *testing.T) {
	server := netip.MustParseAddrPort("10.0.0.1:6443")
	kubelet, watcher, tunnel := netip.MustParseAddrPort("10.0.0.2:1"), netip.MustParseAddrPort("10.0.0.2:2"), netip.MustParseAddrPort("10.0.0.2:3")
	begin := time.Now()
	var packets []hosts.Packet
	at := func(after time.Duration, end netip.AddrPort, out bool, payload int) {
		p := hosts.Packet{At: begin.Add(after), Out: out, Size: payload + 52, TCP: true, Payload: payload, From: end, To: server}
		if !out {
			p.From, p.To = server, end
		}
		packets = append(packets, p)
	}
	for i := range 6 {
		lease := time.Duration(i) * 10 * time.Second
		at(lease-time.Millisecond, kubelet, true, 40)
		at(lease, kubelet, true, 400)
		at(lease+5*time.Millisecond, kubelet, false, 400)
		at(lease+45*time.Millisecond, kubelet, true, 0)
		at(lease+5*time.Second, kubelet, true, 0) // the balancer's look-out
		at(lease+6*time.Second, tunnel, true, 39)
		at(lease+6*time.Second, tunnel, false, 39)
	}
	at(22*time.Second, kubelet, true, 2000)
	at(22*time.Second+30*time.Millisecond, kubelet, false, 3000)
	at(22*time.Second+31*time.Millisecond, watcher, false, 3000)
	at(34*time.Second, watcher, false, 150)
	packets = append(packets, hosts.Packet{At: begin.Add(3 * time.Second), Size: 28})
	slices.SortStableFunc(packets, func(a, b hosts.Packet) int { return a.At.Compare(b.At) })
	const minutes = 24 * 60
	want := day{leases: (6*(92+2*452+52) + 2052 + 3052 + 3052) * minutes, tunnel: 6 * 2 * 91 * minutes, rest: (6*52 + 202 + 28) * minutes}
	if diff := cmp.Diff(want, split(packets, time.Minute), cmp.AllowUnexported(day{})); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
