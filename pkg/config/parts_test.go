package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDisable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("disable: [traefik, coredns, mine.yaml]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, _, err := Load(RoleServer, Input{DefaultFile: file})
	if err != nil {
		t.Fatal(err)
	}
	c, err := cfg.Complete(RoleServer, Facts{Hostname: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"ingress": true, "coredns": true, "metrics-server": false, "mine": true, "servicelb": false, "": false} {
		if got := c.Disabled(name); got != want {
			t.Errorf("Disabled(%q) = %v, want %v", name, got, want)
		}
	}
	want := []string{"--disable traefik: skiff has no traefik; its own part of that kind, ingress, is left out"}
	if diff := cmp.Diff(want, c.DisableHints()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestDisableRefused(t *testing.T) {
	for asked, want := range map[string]string{
		"metric-server":  `invalid --disable "metric-server": want one of coredns, `,
		"metric-servers": "did you mean metrics-server?",
		"mine":           "as mine.yaml",
		"deep/mine.yaml": "without directory",
		".yaml":          "want one of",
	} {
		c := Default()
		c.Server.Disable = []string{asked}
		if _, err := c.Complete(RoleServer, Facts{Hostname: "n1"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--disable %s: error = %v, want one that says %s", asked, err, want)
		}
	}
	for _, name := range PartNames() {
		if err := checkDisable(name); err != nil {
			t.Errorf("--disable %s: %v", name, err)
		}
	}
}
