package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"skiff/test/hosts"
)

// TestBadInput starts skiff where it cannot work: each time one clear error, a
// non-zero exit code, nothing damaged.
func TestBadInput(t *testing.T) {
	t.Parallel()
	readOnly := filepath.Join(t.TempDir(), "ro")
	if err := os.Mkdir(readOnly, 0o755); err != nil {
		t.Fatal(err)
	}
	h := hosts.New(t, hosts.Named("bad"),
		hosts.WithTmpfs(hosts.Tmpfs{Path: "/var/lib/full", Size: "256k"}),
		hosts.WithBind(hosts.Bind{From: readOnly, To: "/var/lib/readonly", ReadOnly: true}),
	)
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"unknown flag":       {[]string{"skiff", "server", "--data-dri=/x"}, []string{"data-dri", "data-dir"}},
		"bad value":          {[]string{"skiff", "server", "--cluster-cidr=10.42.0.0/40"}, []string{"cluster-cidr", "10.42.0.0/40"}},
		"unknown database":   {[]string{"skiff", "server", "--datastore-endpoint=oracle://x"}, []string{"datastore-endpoint", "oracle"}},
		"unknown part":       {[]string{"skiff", "server", "--disable=metric-servers"}, []string{"metric-servers", "did you mean metrics-server"}},
		"not root":           {[]string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "skiff", "server"}, []string{"root"}},
		"full disk":          {[]string{"skiff", "server", "--data-dir=/var/lib/full"}, []string{"/var/lib/full", "no room"}},
		"read-only data dir": {[]string{"skiff", "server", "--data-dir=/var/lib/readonly"}, []string{"/var/lib/readonly", "read-only"}},
	} {
		t.Run(name, func(t *testing.T) { oneError(t, h.For(t).Exec(c.args...), c.want...) })
	}

	t.Run("port in use", func(t *testing.T) {
		h := h.For(t)
		l := h.ListenIn(":6443")
		defer l.Close()
		oneError(t, h.Exec("skiff", "server"), "6443", "in use")
	})

	t.Run("unknown key", func(t *testing.T) {
		h := h.For(t)
		h.WriteFile("/etc/skiff/config.yaml", "cluster-cdir: 10.42.0.0/16\n")
		oneError(t, h.Exec("skiff", "server"), "cluster-cdir", "cluster-cidr", "/etc/skiff/config.yaml")
		if err := os.Remove(h.Path("/etc/skiff/config.yaml")); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("corrupt database", func(t *testing.T) {
		h := h.For(t)
		const db = "/var/lib/skiff/server/db/state.db"
		garbage := strings.Repeat("this is no database ", 1000)
		h.WriteFile(db, garbage)
		oneError(t, h.Exec("skiff", "server"), db)
		if h.ReadFile(db) != garbage {
			t.Error("the corrupt database was changed")
		}
	})
}

// oneError checks that a command has failed with one clear error: the parts
// all stand in its last line, and nothing of a crash is shown.
func oneError(t *testing.T, r hosts.Result, parts ...string) {
	t.Helper()
	if r.Code == 0 || r.Code >= 126 {
		t.Errorf("exit code %d, want an error: %s", r.Code, r)
	}
	lines := strings.Split(strings.TrimSpace(r.Stderr), "\n")
	last := lines[len(lines)-1]
	for _, part := range parts {
		if !strings.Contains(strings.ToLower(last), strings.ToLower(part)) {
			t.Errorf("%q is missing in the last line: %s\n%s", part, last, r)
		}
	}
	for _, line := range lines {
		if strings.Contains(line, "goroutine ") || strings.Contains(line, "panic:") || strings.HasPrefix(line, "Usage:") {
			t.Errorf("the error drowns in: %s", line)
		}
	}
	errors := 0
	for _, line := range lines {
		if strings.Contains(line, "level=ERROR") || strings.HasPrefix(line, "skiff: ") || strings.HasPrefix(line, "error: ") {
			errors++
		}
	}
	if errors > 1 {
		t.Errorf("%d errors, want one:\n%s", errors, r.Stderr)
	}
}
