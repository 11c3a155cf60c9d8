package proxy

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"
)

func TestOptions(t *testing.T) {
	tests := []struct {
		name string
		args []string
		at   addresses
		want string // in the error; "" for none
	}{
		{"ours", nil, addresses{"127.0.0.1:10256", "127.0.0.1:10249"}, ""},
		{"user's", []string{"healthz-bind-address=0.0.0.0:1", "masquerade-all", "metrics-bind-address=0.0.0.0:2"}, addresses{"0.0.0.0:1", "0.0.0.0:2"}, ""},
		{"no metrics", []string{"metrics-bind-address="}, addresses{"127.0.0.1:10256", ""}, ""},
		{"unknown", []string{"masquerade-al=true"}, addresses{}, "masquerade-all"},
		{"not possible", []string{"cleanup"}, addresses{}, "--kube-proxy-arg"},
		{"invalid", []string{"cluster-cidr=nonsense"}, addresses{}, "nonsense"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &Proxy{
				Kubeconfig: "/nowhere", NodeName: "n1", NodeIP: []netip.Addr{netip.MustParseAddr("192.0.2.2")},
				PodCIDR: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}, Args: tt.args, Logger: slog.New(slog.DiscardHandler),
			}
			_, at, err := p.options()
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("error = %v, want one about %s", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if at != tt.at {
				t.Errorf("it serves at %+v, want %+v", at, tt.at)
			}
		})
	}
}
