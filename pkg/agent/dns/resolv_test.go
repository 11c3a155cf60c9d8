package dns

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestResolvers(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("10.42.0.1"), netip.MustParseAddr("10.43.0.10")}
	for _, tt := range []struct {
		name, file, systemd string
		want                []string
	}{
		{name: "nothing"},
		{name: "plain", file: "search a b\nnameserver 192.0.2.1\nnameserver 2001:db8::1 # x\noptions edns0\n", want: []string{"192.0.2.1", "2001:db8::1"}},
		{name: "twice", file: "nameserver 192.0.2.1\nnameserver 192.0.2.1\n", want: []string{"192.0.2.1"}},
		{name: "ourselves", file: "nameserver 10.43.0.10\nnameserver 10.42.0.1\nnameserver ::ffff:10.42.0.1\n"},
		{name: "systemd", file: "nameserver 127.0.0.53\n", systemd: "nameserver 192.0.2.7\n", want: []string{"192.0.2.7"}},
		{name: "systemd without a list", file: "nameserver 127.0.0.53\n", want: []string{"127.0.0.53"}},
		{name: "systemd that leads to us", file: "nameserver 127.0.0.53\n", systemd: "nameserver 10.43.0.10\n"},
		{name: "local server", file: "nameserver 127.0.0.1\n", systemd: "nameserver 192.0.2.7\n", want: []string{"127.0.0.1"}},
		{name: "unspecified and rubbish", file: "nameserver 0.0.0.0\nnameserver\nnameserver here\n"},
		{name: "link local", file: "nameserver fe80::1%eth0\n", want: []string{"fe80::1%eth0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			r := &resolvers{file: write(t, dir, "resolv.conf", tt.file), systemd: write(t, dir, "systemd.conf", tt.systemd), logger: slog.New(slog.DiscardHandler)}
			if d := cmp.Diff(tt.want, r.list(own)); d != "" {
				t.Errorf("resolvers (-want +got):\n%s", d)
			}
		})
	}
}

// TestResolversWatch replaces the file, as DHCP clients do, and lets a missing
// one appear.
func TestResolversWatch(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "resolv.conf")
	changed := make(chan struct{}, 100)
	r := &resolvers{file: file, systemd: filepath.Join(dir, "none", "deep", "resolv.conf"), logger: slog.New(slog.DiscardHandler), changed: func() { changed <- struct{}{} }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { r.watch(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	for i := range 3 {
		// The watch may not have begun: write until it is seen.
		deadline := time.After(10 * time.Second)
		for seen := false; !seen; {
			write(t, dir, "new", "nameserver 192.0.2."+string(rune('1'+i))+"\n")
			if err := os.Rename(filepath.Join(dir, "new"), file); err != nil {
				t.Fatal(err)
			}
			select {
			case <-changed:
				seen = true
			case <-time.After(50 * time.Millisecond):
			case <-deadline:
				t.Fatalf("change %d was not seen", i)
			}
		}
	}
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if text == "" {
		return p
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}
