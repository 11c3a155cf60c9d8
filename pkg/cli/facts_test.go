package cli

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/config"
)

func TestHostResolvConf(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	stub := file("stub", "# nameserver 192.0.2.1\nnameserver 127.0.0.53\noptions edns0\n")
	real := file("real", "search example.com\nnameserver ::1\nnameserver 192.0.2.1\n")
	tests := []struct {
		name  string
		files []string
		want  string
	}{
		{name: "the first", files: []string{real, stub}, want: real},
		{name: "past a stub", files: []string{stub, real}, want: real},
		{name: "past a missing file", files: []string{filepath.Join(dir, "none"), real}, want: real},
		{name: "nothing usable", files: []string{stub}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, hostResolvConf(tt.files...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPorts(t *testing.T) {
	cfg := config.Default()
	cfg.Server.BindAddress = netip.MustParseAddr("192.0.2.5")
	completed, err := cfg.Complete(config.RoleServer, config.Facts{Hostname: "a"})
	if err != nil {
		t.Fatal(err)
	}
	list := func(node bool) (out []string) {
		for _, p := range ports(completed, node) {
			out = append(out, p.Address.String())
		}
		return out
	}
	if diff := cmp.Diff([]string{"192.0.2.5:6443", "0.0.0.0:10250"}, list(true)); diff != "" {
		t.Errorf("node (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"192.0.2.5:6443"}, list(false)); diff != "" {
		t.Errorf("no node (-want +got):\n%s", diff)
	}
	completed.Extra.Kubelet = []string{"port=10251"}
	if diff := cmp.Diff([]string{"192.0.2.5:6443"}, list(true)); diff != "" {
		t.Errorf("kubelet port chosen (-want +got):\n%s", diff)
	}
}
