package hosts

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// trouble is what is wrong with a host's network: rules of nftables in the
// host's own namespace, in tables of their own. A power cut does not end it.
//
// Loss and cuts work on the frames of eth0 in both directions, below all of the
// host's own firewall, so that they hold for pods' packets, too, whatever
// carries them. Delay is not to be had: it takes the kernel's netem queue, or
// nftables' queue statement, and the kernels this has to run on have neither.
type trouble struct {
	cuts    map[string]net.HardwareAddr // by the other host's id
	inbound bool                        // drop what arrives, unless it is an answer
	loss    int                         // percent, each way
}

// Cut drops all packets between the two hosts, silently and both ways, until
// Heal. Established connections hang, as with a broken switch.
func (h *Host) Cut(other *Host) {
	h.t.Helper()
	h.changeTrouble(func(tr *trouble) {
		if tr.cuts == nil {
			tr.cuts = map[string]net.HardwareAddr{}
		}
		tr.cuts[other.id] = other.mac
	})
}

// Heal ends what Cut began, from either side.
func (h *Host) Heal(other *Host) {
	h.t.Helper()
	h.changeTrouble(func(tr *trouble) { delete(tr.cuts, other.id) })
	other.For(h.t).changeTrouble(func(tr *trouble) { delete(tr.cuts, h.id) })
}

// DropInbound drops every packet that arrives at the host and does not belong
// to a connection the host has begun, like a router that translates addresses,
// until AllowInbound. VXLAN packets of other nodes are among what is dropped.
func (h *Host) DropInbound() {
	h.t.Helper()
	h.changeTrouble(func(tr *trouble) { tr.inbound = true })
}

// AllowInbound ends what DropInbound began.
func (h *Host) AllowInbound() {
	h.t.Helper()
	h.changeTrouble(func(tr *trouble) { tr.inbound = false })
}

// Loss drops that share of all packets, by chance, each way; 0 ends it.
func (h *Host) Loss(percent int) {
	h.t.Helper()
	h.changeTrouble(func(tr *trouble) { tr.loss = percent })
}

func (h *Host) changeTrouble(change func(*trouble)) {
	h.t.Helper()
	h.mu.Lock()
	change(&h.trouble)
	m := h.machine
	h.mu.Unlock()
	if m == nil {
		return // Boot applies it.
	}
	if err := h.applyTrouble(m); err != nil {
		h.t.Fatalf("change the network of host %s: %v", h.name, err)
	}
}

// applyTrouble makes the kernel's rules those of h.trouble.
func (h *Host) applyTrouble(m *machine) error {
	h.mu.Lock()
	rules := h.trouble.rules()
	clean := !m.troubled && rules == ""
	m.troubled = rules != ""
	h.mu.Unlock()
	if clean {
		return nil
	}
	var reset strings.Builder
	for _, table := range []string{"netdev " + troubleTable, "inet " + troubleTable} {
		fmt.Fprintf(&reset, "add table %[1]s\ndelete table %[1]s\n", table)
	}
	return m.nft(h.t, reset.String()+rules)
}

const troubleTable = "skiff-test"

// rules is the input of nft, "" for none.
func (tr *trouble) rules() string {
	var in, out, text strings.Builder
	for _, id := range slices.Sorted(maps.Keys(tr.cuts)) {
		fmt.Fprintf(&in, "ether saddr %s drop\n", tr.cuts[id])
		fmt.Fprintf(&out, "ether daddr %s drop\n", tr.cuts[id])
	}
	if tr.loss > 0 {
		fmt.Fprintf(&in, "numgen random mod 100 < %d drop\n", tr.loss)
		fmt.Fprintf(&out, "numgen random mod 100 < %d drop\n", tr.loss)
	}
	if in.Len() > 0 {
		fmt.Fprintf(&text, `table netdev %s {
chain in {
type filter hook ingress device %s priority 0
%s}
chain out {
type filter hook egress device %[2]s priority 0
%[4]s}
}
`, troubleTable, nic, in.String(), out.String())
	}
	if tr.inbound {
		// After connection tracking, before the host's own rules. Neighbours
		// are told apart from connections here: without them IPv6 has no link.
		fmt.Fprintf(&text, `table inet %s {
chain in {
type filter hook prerouting priority -190
iifname %s icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
iifname %[2]s ct state != { established, related } drop
}
}
`, troubleTable, nic)
	}
	return text.String()
}

// nft runs nft within the host's network namespace, with the text as input. It
// is the payload's own, so that the machine needs none.
func (m *machine) nft(t T, text string) error {
	program := filepath.Join(Root(t), "build", "payload", "nft")
	if _, err := os.Stat(program); err != nil {
		if program, err = exec.LookPath("nft"); err != nil {
			return fmt.Errorf("find nft: neither in build/payload nor in PATH (run `make`): %w", err)
		}
	}
	return inNamespace(m.netns, func() error {
		// Not by the init: a program in the machine's directories may be hidden
		// from the host.
		cmd := exec.Command(program, "-f", "-")
		cmd.Stdin = strings.NewReader(text)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("run nft: %w: %s", err, out.String())
		}
		return nil
	})
}
