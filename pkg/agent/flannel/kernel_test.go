package flannel

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestModuleFiles(t *testing.T) {
	const list = `kernel/net/llc/llc.ko:
kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko
kernel/net/bridge/br_netfilter.ko.xz: kernel/net/bridge/bridge.ko kernel/net/802/stp.ko kernel/net/llc/llc.ko
`
	tests := []struct {
		name string
		want []string
	}{
		{"llc", []string{"kernel/net/llc/llc.ko"}},
		{"br_netfilter", []string{"kernel/net/llc/llc.ko", "kernel/net/802/stp.ko", "kernel/net/bridge/bridge.ko", "kernel/net/bridge/br_netfilter.ko.xz"}},
		{"netfilter", nil},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, moduleFiles(list, tt.name)); diff != "" {
			t.Errorf("files to load for %s (-want +got):\n%s", tt.name, diff)
		}
	}
}
