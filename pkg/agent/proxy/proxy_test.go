package proxy

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"skiff/pkg/paths"
)

func TestOptions(t *testing.T) {
	tests := []struct {
		name   string
		args   []string
		health string // where the health server is
		want   string // in the error; "" for none
	}{
		{"ours", nil, "127.0.0.1:10256", ""},
		{"user's", []string{"healthz-bind-address=0.0.0.0:1", "masquerade-all"}, "0.0.0.0:1", ""},
		{"unknown", []string{"masquerade-al=true"}, "", "masquerade-all"},
		{"not possible", []string{"cleanup"}, "", "--kube-proxy-arg"},
		{"invalid", []string{"cluster-cidr=nonsense"}, "", "nonsense"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &Proxy{
				Layout: paths.New(t.TempDir()), NodeName: "n1", NodeIP: []netip.Addr{netip.MustParseAddr("192.0.2.2")},
				PodCIDR: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}, Args: tt.args, Logger: slog.New(slog.DiscardHandler),
			}
			_, health, err := p.options()
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("error = %v, want one about %s", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if health.health != tt.health {
				t.Errorf("health server at %s, want %s", health, tt.health)
			}
		})
	}
}
