package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// bridge is the interface that the pods of a node are connected by.
const bridge = "cni0"

// ourTables are those that skiff writes.
func ourTable(name string) bool { return strings.HasPrefix(name, "skiff") || name == "kube-proxy" }

// packets are those that must pass if pods are to work.
func (d *Doctor) packets() []packet {
	uplink := d.uplink()
	var all []packet
	for _, pods := range d.PodCIDR {
		outside := netip.AddrFrom4([4]byte{192, 0, 2, 1}) // of the documentation
		if pods.Addr().Is6() {
			outside = netip.MustParseAddr("2001:db8::1")
		}
		machine := pods.Addr().Next()
		pod := machine.Next()
		all = append(all,
			packet{what: "from pods to other networks", hook: "forward", in: bridge, out: uplink, src: pod, dst: outside, proto: "tcp", port: 443},
			packet{what: "between pods", hook: "forward", in: bridge, out: bridge, src: pod, dst: pod.Next(), proto: "tcp", port: 8080},
			packet{what: "from other networks to pods", hook: "forward", in: uplink, out: bridge, src: outside, dst: pod, proto: "tcp", port: 8080, dnat: true},
			packet{what: "from pods to the cluster's DNS", hook: "input", in: bridge, src: pod, dst: machine, proto: "udp", port: dnsPort},
		)
		if d.Server {
			all = append(all, packet{what: "from pods to the API", hook: "input", in: bridge, src: pod, dst: machine, proto: "tcp", port: d.APIPort, dnat: true})
		}
	}
	return all
}

// uplink is the interface with the address that the default route uses.
func (d *Doctor) uplink() string {
	addrs, err := d.sys.defaultRoute()
	links, err2 := d.sys.links()
	if err != nil || err2 != nil || len(addrs) == 0 {
		return ""
	}
	for _, l := range links {
		if slices.ContainsFunc(l.addrs, func(p netip.Prefix) bool { return p.Addr() == addrs[0] }) {
			return l.name
		}
	}
	return ""
}

func lookNFTRules(ctx context.Context, x *exam) (err error) {
	if !x.sys.root {
		return errNotRoot
	}
	if x.NFT == nil {
		return errors.New("there is no nft to ask")
	}
	nft, remove, err := x.NFT()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	list := func(args ...string) (ruleset, error) {
		text, err := x.sys.run(ctx, nft, append([]string{"-j", "list"}, args...)...)
		if err != nil {
			return nil, err
		}
		return parseRuleset(text)
	}
	heads, err := list("chains")
	if err != nil {
		return err
	}
	var seen []string
	for _, c := range heads {
		table := c.Family + " " + c.Table
		foreign := c.Type == "filter" && (c.Hook == "forward" || c.Hook == "input") && !ourTable(c.Table)
		if !foreign || slices.Contains(seen, table) || !slices.Contains([]string{"ip", "ip6", "inet"}, c.Family) {
			continue
		}
		seen = append(seen, table)
		rules, err := list("table", c.Family, c.Table)
		if err != nil {
			return err
		}
		x.examineTable(rules)
	}
	return nil
}

// examineTable sends the packets through the base chains of one table.
func (x *exam) examineTable(rules ruleset) {
	for _, c := range rules {
		if c.Type != "filter" || x.explained(rules, c) {
			continue
		}
		var lost []string
		var from, to []netip.Prefix
		for _, p := range x.packets() {
			if p.hook != c.Hook || (c.Family == "ip") && !p.src.Is4() || (c.Family == "ip6") && p.src.Is4() || !rules.drops(c, p) {
				continue
			}
			lost = append(lost, p.what)
			for _, pods := range x.PodCIDR {
				if pods.Contains(p.src) && !slices.Contains(from, pods) {
					from = append(from, pods)
				}
				if pods.Contains(p.dst) && p.hook == "forward" && !slices.Contains(to, pods) {
					to = append(to, pods)
				}
			}
		}
		if len(lost) == 0 {
			continue
		}
		slices.Sort(lost)
		x.found(Warning, fmt.Sprintf("the nftables chain %s of table %s %s drops packets %s", c.Name, c.Family, c.Table, strings.Join(slices.Compact(lost), ", ")),
			advice(rules, c, from, to), nil)
	}
}

// explained reports whether another finding is about this table already.
func (x *exam) explained(rules ruleset, c *chain) bool {
	said := func(id string) bool {
		return slices.ContainsFunc(x.report.Findings, func(f Finding) bool { return f.ID == id })
	}
	ufw := slices.ContainsFunc(rules, func(c *chain) bool { return strings.HasPrefix(c.Name, "ufw") })
	return c.Table == "firewalld" && said("firewalld") || ufw && said("ufw")
}

// advice says how to let the packets pass, in the words of whoever made the
// table: iptables names its own in capital letters.
func advice(rules ruleset, c *chain, from, to []netip.Prefix) string {
	var out []string
	add := func(direction, flag string, ranges []netip.Prefix) {
		for _, p := range ranges {
			family, tool := "ip", "iptables"
			if p.Addr().Is6() {
				family, tool = "ip6", "ip6tables"
			}
			if c.Name == strings.ToUpper(c.Name) && c.Table == "filter" {
				name := c.Name
				if name == "FORWARD" && rules.find(c.Family, c.Table, "DOCKER-USER") != nil {
					name = "DOCKER-USER"
				}
				out = append(out, fmt.Sprintf("%s -I %s %s %s -j ACCEPT", tool, name, flag, p))
				continue
			}
			out = append(out, fmt.Sprintf("nft insert rule %s %s %s %s %s %s accept", c.Family, c.Table, c.Name, family, direction, p))
		}
	}
	add("saddr", "-s", from)
	add("daddr", "-d", to)
	return strings.Join(out, "; ") + "; and see that whoever makes this table does so at boot, too"
}
