package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// memory is a directory with a file for each address that a pod has been given
// last, named like the address and with the pod's UID in it. After a reboot
// host-local has forgotten everything, but the Services that this node and
// others know still lead to the pods' old addresses: without a server nobody
// could tell them others. "" is no memory.
type memory string

// most is how many addresses are remembered.
const most = 1024

// recall returns the addresses that a pod had.
func (m memory) recall(uid string) []netip.Addr {
	if m == "" || uid == "" {
		return nil
	}
	entries, err := os.ReadDir(string(m))
	if err != nil {
		return nil
	}
	var had []netip.Addr
	for _, e := range entries {
		ip, err := netip.ParseAddr(e.Name())
		if err != nil {
			continue
		}
		if owner, err := os.ReadFile(filepath.Join(string(m), e.Name())); err == nil && string(owner) == uid {
			had = append(had, ip)
		}
	}
	return had
}

// keep remembers the addresses of a pod, and nothing else as its.
func (m memory) keep(uid string, had, ips []netip.Addr) error {
	if m == "" || uid == "" || slices.Equal(had, ips) {
		return nil
	}
	if err := os.MkdirAll(string(m), 0o700); err != nil {
		return fmt.Errorf("remember addresses: %w", err)
	}
	for _, ip := range had {
		if !slices.Contains(ips, ip) {
			m.forget(ip)
		}
	}
	for _, ip := range ips {
		if err := os.WriteFile(filepath.Join(string(m), ip.String()), []byte(uid), 0o600); err != nil {
			return fmt.Errorf("remember addresses: %w", err)
		}
	}
	return m.prune()
}

func (m memory) forget(ip netip.Addr) { _ = os.Remove(filepath.Join(string(m), ip.String())) }

// prune forgets the older half when there are too many: a range of IPv6
// addresses has no end.
func (m memory) prune() error {
	entries, err := os.ReadDir(string(m))
	if err != nil || len(entries) <= most {
		return err
	}
	age := func(e fs.DirEntry) int64 {
		if info, err := e.Info(); err == nil {
			return info.ModTime().UnixNano()
		}
		return 0
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return int(age(a)>>20 - age(b)>>20) })
	for _, e := range entries[:len(entries)/2] {
		_ = os.Remove(filepath.Join(string(m), e.Name()))
	}
	return nil
}

// asking adds to a configuration for host-local which addresses to give.
func asking(conf []byte, ips []netip.Addr) ([]byte, error) {
	var all map[string]any
	if err := json.Unmarshal(conf, &all); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if _, ok := all["args"]; ok {
		return nil, errors.New("the configuration has arguments already")
	}
	all["args"] = map[string]any{"cni": map[string]any{"ips": ips}}
	return json.Marshal(all)
}

// podUID reads CNI_ARGS, in which containerd names the pod.
func podUID(args string) string {
	for _, arg := range strings.Split(args, ";") {
		if key, value, _ := strings.Cut(arg, "="); key == "K8S_POD_UID" {
			return value
		}
	}
	return ""
}
