// Package kernel writes the plan of network policies into the kernel: the
// nftables table, and connection tracking. It must not know what a policy is.
// Start reading at Table.Apply.
package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"sigs.k8s.io/knftables"

	"skiff/pkg/agent/netpol/plan"
)

// TableName is that of the nftables table, of family inet. Nothing else writes to it.
const TableName = "skiff-netpol"

// within bounds one call of nft.
const within = 30 * time.Second

// Table is the table in the kernel. The zero Table is usable, by one goroutine
// at a time.
type Table struct {
	once sync.Once
	nft  knftables.Interface
	err  error
}

func (t *Table) open() (knftables.Interface, error) {
	t.once.Do(func() { t.nft, t.err = knftables.New(knftables.InetFamily, TableName) })
	if t.err != nil {
		return nil, fmt.Errorf("use nftables: %w", t.err)
	}
	return t.nft, nil
}

// Apply makes changes: all in one transaction, then what nothing refers to any
// more is removed by another, since older kernels still count a reference that
// goes in the same one.
func (t *Table) Apply(ctx context.Context, c plan.Changes) error {
	nft, err := t.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if tx := nft.NewTransaction(); change(tx, c) {
		if err := nft.Run(ctx, tx); err != nil {
			return fmt.Errorf("write nftables table %s: %w", TableName, err)
		}
	}
	if tx := nft.NewTransaction(); drop(tx, c) {
		if err := nft.Run(ctx, tx); err != nil {
			return fmt.Errorf("remove what is not used from nftables table %s: %w", TableName, err)
		}
	}
	return nil
}

// change writes the first transaction. Everything is declared before anything
// refers to it.
func change(tx *knftables.Transaction, c plan.Changes) bool {
	if c.All {
		tx.Add(&knftables.Table{})
		tx.Delete(&knftables.Table{})
		tx.Add(&knftables.Table{Comment: new("NetworkPolicies, written by skiff")})
	}
	for _, s := range c.Sets {
		declare(tx, s)
	}
	for _, ch := range c.Chains {
		chain := &knftables.Chain{Name: ch.Name, Comment: comment(ch.Comment)}
		if ch.Hook != nil {
			chain.Type = new(knftables.FilterType)
			chain.Hook = new(knftables.BaseChainHook(ch.Hook.Hook))
			chain.Priority = new(knftables.BaseChainPriority(string(knftables.FilterPriority) + "-" + strconv.Itoa(ch.Hook.Before)))
		}
		tx.Add(chain)
		if !c.All {
			tx.Flush(chain)
		}
	}
	for _, s := range c.Sets {
		for key, value := range s.Elements {
			tx.Add(elementOf(plan.Element{Set: s.Name, Map: s.Map, Key: key, Value: value}))
		}
	}
	for _, e := range c.Delete {
		tx.Delete(elementOf(e))
	}
	for _, e := range c.Add {
		tx.Add(elementOf(e))
	}
	for _, ch := range c.Chains {
		for _, rule := range ch.Rules {
			tx.Add(&knftables.Rule{Chain: ch.Name, Rule: rule})
		}
	}
	return tx.NumOperations() > 0
}

func declare(tx *knftables.Transaction, s plan.Set) {
	if s.Map {
		m := &knftables.Map{Name: s.Name, Type: s.Type, Comment: comment(s.Comment)}
		tx.Add(m)
		tx.Flush(m)
		return
	}
	set := &knftables.Set{Name: s.Name, Type: s.Type, Comment: comment(s.Comment)}
	tx.Add(set)
	tx.Flush(set)
}

func elementOf(e plan.Element) *knftables.Element {
	out := &knftables.Element{Key: strings.Split(e.Key, " . ")}
	if e.Map {
		out.Map, out.Value = e.Set, []string{e.Value}
	} else {
		out.Set = e.Set
	}
	return out
}

// drop writes the second transaction.
func drop(tx *knftables.Transaction, c plan.Changes) bool {
	for _, name := range c.DropChains {
		tx.Flush(&knftables.Chain{Name: name})
	}
	for _, name := range c.DropChains {
		tx.Delete(&knftables.Chain{Name: name})
	}
	for _, name := range c.DropSets {
		tx.Delete(&knftables.Set{Name: name})
	}
	return tx.NumOperations() > 0
}

// comment fits text into what the kernel keeps.
func comment(text string) *string {
	if text == "" {
		return nil
	}
	const longest = 120
	text = strings.Map(func(r rune) rune {
		if r == '"' || r == '\\' || r < ' ' || r > '~' {
			return '_'
		}
		return r
	}, text)
	if len(text) > longest {
		text = text[:longest] + "..."
	}
	return &text
}

// Remove removes the table, if there is one.
func (t *Table) Remove(ctx context.Context) error {
	nft, err := t.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tx := nft.NewTransaction()
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
	if err := nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("remove nftables table %s: %w", TableName, err)
	}
	return nil
}

// CutConnections makes the kernel forget the connections of addresses, which
// were somebody else's: what is established passes.
func CutConnections(ips []netip.Addr) error {
	for _, ip := range ips {
		family := netlink.InetFamily(netlink.FAMILY_V4)
		if ip.Is6() {
			family = netlink.FAMILY_V6
		}
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, connectionsOf{ip}); err != nil {
			return fmt.Errorf("end connections of the pod that had address %s before: %w", ip, err)
		}
	}
	return nil
}

// connectionsOf matches the connections from and to an address.
type connectionsOf struct{ ip netip.Addr }

var _ netlink.CustomConntrackFilter = connectionsOf{}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (c connectionsOf) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	ip := c.ip.AsSlice()
	return flow.Forward.SrcIP.Equal(ip) || flow.Forward.DstIP.Equal(ip) || flow.Reverse.SrcIP.Equal(ip) || flow.Reverse.DstIP.Equal(ip)
}
