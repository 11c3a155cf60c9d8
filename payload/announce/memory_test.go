package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestMemory(t *testing.T) {
	m := memory(filepath.Join(t.TempDir(), "addresses"))
	a, b := netip.MustParseAddr("10.42.0.2"), netip.MustParseAddr("fd00::2")
	c := netip.MustParseAddr("10.42.0.3")
	if err := m.keep("one", m.recall("one"), []netip.Addr{a, b}); err != nil {
		t.Fatal(err)
	}
	if got := m.recall("one"); !slices.Contains(got, a) || !slices.Contains(got, b) || len(got) != 2 {
		t.Errorf("%v", got)
	}
	// The pod got another address, and the old one is another pod's.
	for uid, ip := range map[string]netip.Addr{"one": c, "two": a} {
		if err := m.keep(uid, m.recall(uid), []netip.Addr{ip}); err != nil {
			t.Fatal(err)
		}
	}
	if got := m.recall("two"); !slices.Equal(got, []netip.Addr{a}) {
		t.Errorf("%v", got)
	}
	if got := m.recall("one"); !slices.Equal(got, []netip.Addr{c}) {
		t.Errorf("%v", got)
	}
	if got := memory("").recall("one"); got != nil {
		t.Errorf("%v", got)
	}
}

func TestPrune(t *testing.T) {
	m := memory(t.TempDir())
	ip := netip.MustParseAddr("fd00::1")
	for range most + 1 {
		ip = ip.Next()
		if err := m.keep("u"+ip.String(), nil, []netip.Addr{ip}); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(string(m))
	if err != nil || len(entries) > most {
		t.Errorf("%d, %v", len(entries), err)
	}
	if got := m.recall("u" + ip.String()); len(got) != 1 {
		t.Error("the newest is forgotten")
	}
}
