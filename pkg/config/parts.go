package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// parts are the bundled parts that --disable knows, and what K3s calls them.
var parts = []struct {
	name string
	k3s  string // "" is the same
}{
	{name: "coredns"},
	{name: "servicelb"},
	{name: "ingress", k3s: "traefik"},
	{name: "local-storage"},
	{name: "metrics-server"},
	{name: "network-policy"},
	{name: "helm-controller"},
	{name: "runtimes"},
}

// PartNames are the names of the bundled parts.
func PartNames() []string {
	var out []string
	for _, p := range parts {
		out = append(out, p.name)
	}
	return out
}

// manifestName is the name of the manifest that an element of --disable means
// by its file, as "mine" for mine.yaml.
func manifestName(asked string) (string, bool) {
	for _, ext := range []string{".yaml", ".yml", ".json"} {
		if name, ok := strings.CutSuffix(asked, ext); ok && name != "" {
			return filepath.Base(name), true
		}
	}
	return "", false
}

// disabledName is the name that an element of --disable means.
func disabledName(asked string) string {
	if name, ok := manifestName(asked); ok {
		return name
	}
	for _, p := range parts {
		if p.k3s == asked && asked != "" {
			return p.name
		}
	}
	return asked
}

// checkDisable refuses what names no part. Manifests are told from misspelled
// parts by their extension, not by being there: a file that comes later, or is
// gone, must not keep a server from starting.
func checkDisable(asked string) error {
	name, manifest := manifestName(asked)
	switch {
	case strings.Contains(asked, "/"):
		return errors.New("want the name of a part, or of a manifest's file without directory")
	case manifest && name != "", slices.Contains(PartNames(), disabledName(asked)):
		return nil
	}
	return fmt.Errorf("want one of %s, or a manifest by the name of its file, as %s.yaml%s",
		strings.Join(PartNames(), ", "), asked, didYouMean(asked, PartNames()))
}

// DisableHints says which parts the user calls as K3s does.
func (c Completed) DisableHints() []string {
	var out []string
	for _, asked := range c.Server.Disable {
		if _, manifest := manifestName(asked); manifest {
			continue
		}
		if name := disabledName(asked); name != asked {
			out = append(out, fmt.Sprintf("--disable %s: skiff has no %s; its own part of that kind, %s, is left out", asked, asked, name))
		}
	}
	return out
}
