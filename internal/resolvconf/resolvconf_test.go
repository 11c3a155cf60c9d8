package resolvconf

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestForPods(t *testing.T) {
	tests := []struct {
		name, text, want string
		servers, local   []string
	}{
		{"as it is", "# by dhcp\nnameserver 192.0.2.1\nsearch example.org\n", "nameserver 192.0.2.1\nsearch example.org\n", []string{"192.0.2.1"}, nil},
		{"less loopback", "nameserver 127.0.0.53\nnameserver ::1\nnameserver 2001:db8::1\n", "nameserver 2001:db8::1\n", []string{"2001:db8::1"}, []string{"127.0.0.53", "::1"}},
		{"nonsense", "nameserver\nnameserver local\n", "", nil, []string{"local"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, servers, local := ForPods(tt.text)
			if diff := cmp.Diff([]any{tt.want, tt.servers, tt.local}, []any{out, servers, local}); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}
