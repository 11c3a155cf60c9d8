package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"skiff/pkg/hostchange"
	"skiff/pkg/paths"
	"skiff/pkg/process"
)

func firewallChecks() []check {
	return []check{
		{
			id: "firewalld", worst: Warning, node: true, about: "firewalld, if it runs: pods in the trusted zone, ports of the server and the tunnel open",
			why: "firewalld drops what it does not know: pods reach neither the cluster's DNS nor the API nor each other",
			fix: "the ranges are added to the zone trusted, the ports to the zone of the default route, now and for good", look: lookFirewalld,
		},
		{
			id: "ufw", worst: Warning, node: true, about: "ufw, if it is active: rules for pods, and for the ports of the server and the tunnel",
			why: "ufw drops what it does not know: pods reach neither the cluster's DNS nor the API nor each other",
			fix: "the rules are added by ufw allow and ufw route allow", look: lookUFW,
		},
		{
			id: "firewall-nftables", worst: Warning, node: true, about: "nftables rules of others (Docker, netbird, your own, iptables-nft): whether packets of pods would pass, by walking through the rules",
			why: "a packet must pass the rules of everybody: one that another program drops is lost, whatever skiff's rules say", look: lookNFTRules,
		},
		{
			id: "firewall-iptables", worst: Warning, node: true, about: "rules of the old iptables (iptables-legacy), in the same way",
			why: "they are asked besides nftables, and iptables or nft do not show them", look: lookLegacy,
		},
	}
}

// openPorts are the ports by which other machines reach this one.
func (d *Doctor) openPorts() []string {
	var all []string
	if d.Server {
		all = append(all, fmt.Sprintf("%d/tcp", d.APIPort))
	}
	switch d.Backend {
	case "vxlan":
		all = append(all, fmt.Sprintf("%d/udp", vxlanPort))
	case "wireguard-native":
		all = append(all, fmt.Sprintf("%d/udp", wireguardPort))
	}
	return all
}

// runs returns the id of a process with one of these command names, if any;
// it is empty else.
func (d *Doctor) runs(names ...string) (pid string) {
	for _, p := range d.processes() {
		if slices.Contains(names, p.name) {
			return p.pid
		}
	}
	return ""
}

func lookFirewalld(ctx context.Context, x *exam) error {
	if x.runs("firewalld") == "" {
		return nil
	}
	if !x.sys.root {
		return errNotRoot
	}
	trusted, err := x.sys.run(ctx, "firewall-cmd", "--zone=trusted", "--list-all")
	if err != nil {
		return err
	}
	// Ports are opened where other machines come in.
	where := "--zone=" + x.zone(ctx)
	zone, err := x.sys.run(ctx, "firewall-cmd", where, "--list-all")
	if err != nil {
		return err
	}
	var missing, commands []string
	args := [][]string{}
	add := func(what string, option ...string) {
		missing = append(missing, what)
		commands = append(commands, "firewall-cmd --permanent "+strings.Join(option, " "))
		args = append(args, option)
	}
	known := fields(trusted, "sources")
	for _, p := range slices.Concat(x.PodCIDR, x.ServiceCIDR) {
		if !slices.ContainsFunc(known, func(s string) bool { return covers(s, p) }) {
			add(p.String(), "--zone=trusted", "--add-source="+p.String())
		}
	}
	if field(zone, "target") != "ACCEPT" {
		for _, port := range x.openPorts() {
			served := port == "6443/tcp" && slices.Contains(fields(zone, "services"), "kube-apiserver")
			if !served && !slices.ContainsFunc(fields(zone, "ports"), func(r string) bool { return inRange(r, port) }) {
				add(port, where, "--add-port="+port)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	x.found(Warning, "firewalld runs and lets these not pass: "+strings.Join(missing, ", "), strings.Join(append(commands, "firewall-cmd --reload"), "; "),
		func(ctx context.Context) (string, error) {
			for _, a := range args {
				if err := x.note(hostchange.Change{Kind: hostchange.Firewalld, Value: strings.Join(a, " ")}); err != nil {
					return "", err
				}
				// Twice instead of a reload, which drops what others have added.
				for _, when := range [][]string{{"--permanent"}, nil} {
					if _, err := x.sys.run(ctx, "firewall-cmd", append(when, a...)...); err != nil {
						return "", err
					}
				}
			}
			return "firewalld lets pass: " + strings.Join(missing, ", "), nil
		})
	return nil
}

// zone is firewalld's zone of the interface with the default route, else the
// default one.
func (x *exam) zone(ctx context.Context) string {
	if uplink := x.uplink(); uplink != "" {
		if out, err := x.sys.run(ctx, "firewall-cmd", "--get-zone-of-interface="+uplink); err == nil {
			return strings.TrimSpace(out)
		}
	}
	out, err := x.sys.run(ctx, "firewall-cmd", "--get-default-zone")
	if err != nil {
		return "public" // as it comes
	}
	return strings.TrimSpace(out)
}

// field is the value of a line "  name: value" in the output of firewall-cmd.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && key == name {
			return strings.Trim(strings.TrimSpace(value), "%")
		}
	}
	return ""
}

func fields(text, name string) []string { return strings.Fields(field(text, name)) }

// covers reports whether a range as text has all of another range.
func covers(text string, p netip.Prefix) bool {
	if a, err := netip.ParseAddr(text); err == nil {
		return p.IsSingleIP() && a == p.Addr()
	}
	q, err := netip.ParsePrefix(text)
	return err == nil && q.Bits() <= p.Bits() && q.Contains(p.Addr())
}

// inRange reports whether "6440-6450/tcp" has "6443/tcp".
func inRange(ports, port string) bool {
	span, proto, _ := strings.Cut(ports, "/")
	number, wanted, _ := strings.Cut(port, "/")
	first, last, ok := strings.Cut(span, "-")
	if !ok {
		return ports == port
	}
	var a, b, n int
	_, err := fmt.Sscan(first+" "+last+" "+number, &a, &b, &n)
	return err == nil && proto == wanted && a <= n && n <= b
}

func lookUFW(ctx context.Context, x *exam) error {
	if !x.sys.root {
		if strings.Contains(x.Read(paths.UFWConf), "ENABLED=yes") {
			return errNotRoot
		}
		return nil
	}
	out, err := x.sys.run(ctx, "ufw", "status")
	if errors.Is(err, process.ErrNotFound) || err == nil && !strings.Contains(out, "Status: active") {
		return nil
	}
	if err != nil {
		return err
	}
	rules := ufwRules(out)
	var missing []string
	var args [][]string
	add := func(what string, command ...string) {
		missing = append(missing, what)
		args = append(args, command)
	}
	for _, p := range x.PodCIDR {
		has := func(match func(ufwRule) bool) bool {
			return slices.ContainsFunc(rules, func(r ufwRule) bool { return r.allow && match(r) })
		}
		if !has(func(r ufwRule) bool { return !r.route && r.anyTo && covers(r.from, p) }) {
			add(p.String()+" to this machine", "allow", "from", p.String())
		}
		if !has(func(r ufwRule) bool { return r.route && r.anyTo && covers(r.from, p) }) {
			add("routed from "+p.String(), "route", "allow", "from", p.String())
		}
		if !has(func(r ufwRule) bool { return r.route && r.anyFrom && covers(r.to, p) }) {
			add("routed to "+p.String(), "route", "allow", "to", p.String())
		}
	}
	for _, port := range x.openPorts() {
		// A rule that denies is somebody's decision.
		if !slices.ContainsFunc(rules, func(r ufwRule) bool { return !r.route && r.names(port) }) {
			add(port, "allow", port)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var commands []string
	for _, a := range args {
		commands = append(commands, "ufw "+strings.Join(a, " "))
	}
	x.found(Warning, "ufw is active and has no rules for: "+strings.Join(missing, ", "), strings.Join(commands, "; "), func(ctx context.Context) (string, error) {
		for _, a := range args {
			if err := x.note(hostchange.Change{Kind: hostchange.UFW, Value: strings.Join(a, " ")}); err != nil {
				return "", err
			}
			if _, err := x.sys.run(ctx, "ufw", a...); err != nil {
				return "", err
			}
		}
		return "ran " + strings.Join(commands, "; "), nil
	})
	return nil
}

// ufwRule is a line of `ufw status`.
type ufwRule struct {
	to, from       string // ranges or ports, or "Anywhere"
	anyTo, anyFrom bool
	allow, route   bool
}

func (r ufwRule) names(port string) bool {
	number, _, _ := strings.Cut(port, "/")
	to, _, _ := strings.Cut(r.to, " ")
	return slices.Contains(strings.Split(to, ","), number) || inRange(strings.Replace(to, ":", "-", 1), port)
}

// ufwRules reads the table of `ufw status`: To, Action, From; with "(v6)" behind
// the addresses of IPv6, and FWD behind the action of routed packets.
func ufwRules(text string) []ufwRule {
	var rules []ufwRule
	for line := range strings.Lines(text) {
		for _, action := range []string{"ALLOW", "DENY", "REJECT", "LIMIT"} {
			to, rest, ok := strings.Cut(line, " "+action)
			if !ok {
				continue
			}
			r := ufwRule{to: strings.TrimSpace(to), allow: action == "ALLOW"}
			rest, _, _ = strings.Cut(rest, "#") // a comment
			rest = strings.TrimSpace(rest)
			for _, direction := range []string{"IN ", "FWD ", "OUT "} {
				if more, ok := strings.CutPrefix(rest+" ", direction); ok {
					r.route, rest = direction == "FWD ", strings.TrimSpace(more)
				}
			}
			r.from = rest
			r.anyTo, r.anyFrom = strings.HasPrefix(r.to, "Anywhere"), strings.HasPrefix(r.from, "Anywhere")
			rules = append(rules, r)
			break
		}
	}
	return rules
}
