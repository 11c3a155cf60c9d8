package kernel

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"
)

// Numbers of the nftables protocol that package unix does not have.
//
// Source: Linux, include/uapi/linux/netfilter/nf_tables.h (NFT_MSG_DELTABLE,
// NFTA_TABLE_NAME), and nfnetlink.h (struct nfgenmsg, which attributes follow).
const (
	deleteTable = unix.NFNL_SUBSYS_NFTABLES<<8 | 2
	nameOfTable = 1
	lenNfgenmsg = 4
)

// Guard hears when the table is deleted, which others do who believe that all of
// nftables is theirs: `nft flush ruleset` stands at the top of many a
// configuration that is loaded again.
type Guard struct{ events *nl.NetlinkSocket }

// NewGuard begins to listen.
func NewGuard() (*Guard, error) {
	s, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return nil, fmt.Errorf("watch nftables: %w", err)
	}
	return &Guard{s}, nil
}

// Run calls deleted whenever the table has been deleted, also when that was
// done to make it anew, or may have been. It returns when ctx ends.
func (g *Guard) Run(ctx context.Context, deleted func()) error {
	stop := context.AfterFunc(ctx, g.events.Close)
	defer func() {
		if stop() {
			g.events.Close()
		}
	}()
	for {
		messages, _, err := g.events.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // It did not keep up: something was missed.
			deleted()
			continue
		case err != nil:
			return fmt.Errorf("watch nftables: %w", err)
		}
		for _, m := range messages {
			if m.Header.Type == deleteTable && ours(m.Data) {
				deleted()
			}
		}
	}
}

// ours reports whether a message is about our table.
func ours(data []byte) bool {
	if len(data) < lenNfgenmsg || data[0] != unix.NFPROTO_INET {
		return false
	}
	attributes, err := nl.ParseRouteAttr(data[lenNfgenmsg:])
	if err != nil {
		return false
	}
	for _, a := range attributes {
		if a.Attr.Type == nameOfTable {
			return nl.BytesToString(a.Value) == TableName
		}
	}
	return false
}

// Exists reports whether the table is there.
func (t *Table) Exists(ctx context.Context) (bool, error) {
	nft, err := t.open()
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	chains, err := nft.List(ctx, "chains")
	if knftables.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for nftables table %s: %w", TableName, err)
	}
	return len(chains) > 0, nil
}
