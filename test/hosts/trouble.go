package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// trouble is what is wrong with a host's network: rules of nftables in tables of
// their own. A power cut does not end it.
//
// Loss and cuts work on frames, those that come where eth0 takes them in, and
// those that go where the switch does: below all of the host's own firewall, so
// that they hold for pods' packets, too, whatever carries them, and so that the
// host does not know. (Of a packet that eth0 itself does not send, TCP is told.)
// Delay is not to be had: it takes the kernel's netem queue, or
// nftables' queue statement, and the kernels this has to run on have neither.
type trouble struct {
	cuts    map[string]net.HardwareAddr // by the other host's id
	inbound bool                        // drop what arrives, unless it is an answer
	loss    int                         // percent, each way
	stray   [][2]string                 // ports of connections that lead nowhere, the host's first
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

// Strand drops, silently and both ways, every packet of the TCP connections
// that the host has with others at this moment, as a router does that has lost
// its state. New connections pass. Called again it is about those of then.
func (h *Host) Strand() {
	h.t.Helper()
	var stray [][2]string
	for line := range strings.Lines(h.Run("sh", "-c", "cat /proc/net/tcp*")) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != established {
			continue
		}
		_, here, _ := strings.Cut(f[1], ":")
		address, there, _ := strings.Cut(f[2], ":")
		if strings.HasSuffix(address, "7F") || strings.HasSuffix(address, "0000000001000000") { // 127.x.x.x, ::1
			continue
		}
		stray = append(stray, [2]string{"0x" + here, "0x" + there})
	}
	h.changeTrouble(func(tr *trouble) { tr.stray = stray })
}

// established is a state in /proc/net/tcp.
const established = "01"

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
	here, port := h.trouble.rules(m.port)
	clean := !m.troubled && here+port == ""
	m.troubled = here+port != ""
	h.mu.Unlock()
	if clean {
		return nil
	}
	again := func(table string) string { return fmt.Sprintf("add table %[1]s\ndelete table %[1]s\n", table) }
	return errors.Join(
		nft(h.t, m.netns, again("netdev "+troubleTable)+again("inet "+troubleTable)+here),
		nft(h.t, h.network.ns, again("netdev "+m.port)+port),
	)
}

const troubleTable = "skiff-test"

// rules are the inputs of nft for the host and for its port of the switch, ""
// for none.
func (tr *trouble) rules(port string) (here, atPort string) {
	var in, out, text strings.Builder
	for _, id := range slices.Sorted(maps.Keys(tr.cuts)) {
		fmt.Fprintf(&in, "ether saddr %s drop\n", tr.cuts[id])
		fmt.Fprintf(&out, "ether daddr %s drop\n", tr.cuts[id])
	}
	if tr.loss > 0 {
		fmt.Fprintf(&in, "numgen random mod 100 < %d drop\n", tr.loss)
		fmt.Fprintf(&out, "numgen random mod 100 < %d drop\n", tr.loss)
	}
	for _, ports := range tr.stray {
		fmt.Fprintf(&in, "tcp sport %s tcp dport %s drop\n", ports[1], ports[0])
		fmt.Fprintf(&out, "tcp sport %s tcp dport %s drop\n", ports[0], ports[1])
	}
	const frames = `table netdev %s {
chain in {
type filter hook ingress device %s priority 0
%s}
}
`
	if in.Len() > 0 {
		fmt.Fprintf(&text, frames, troubleTable, nic, in.String())
		atPort = fmt.Sprintf(frames, port, port, out.String())
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
	return text.String(), atPort
}

// nft runs nft within a network namespace, with the text as input. It is the
// payload's own, so that the machine needs none.
func nft(t T, ns *os.File, text string) error {
	_, err := nftOutput(t, ns, text)
	return err
}

// nftOutput is nft for a command that prints.
func nftOutput(t T, ns *os.File, text string) (string, error) {
	program := filepath.Join(Root(t), "build", "payload", "nft")
	if _, err := os.Stat(program); err != nil {
		if program, err = exec.LookPath("nft"); err != nil {
			return "", fmt.Errorf("find nft: neither in build/payload nor in PATH (run `make`): %w", err)
		}
	}
	var out bytes.Buffer
	err := inNamespace(ns, func() error {
		// Not by the init: a program in the machine's directories may be hidden
		// from the host.
		cmd := exec.Command(program, "-f", "-")
		cmd.Stdin = strings.NewReader(text)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("run nft: %w: %s", err, out.String())
		}
		return nil
	})
	return out.String(), err
}
