// Package resolvconf reads the C library's resolver configuration as pods will
// see it. It knows nothing of where it is kept. Start reading at ForPods.
package resolvconf

import (
	"net/netip"
	"strings"
)

// ForPods is a resolver configuration without the servers that are this host
// itself to the host, and the pod itself to a pod; these are returned as local.
func ForPods(text string) (out string, servers, local []string) {
	var b strings.Builder
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") || strings.HasPrefix(f[0], ";") {
			continue
		}
		if f[0] == "nameserver" {
			if len(f) < 2 {
				continue
			}
			a, err := netip.ParseAddr(f[1])
			if err != nil || a.IsUnspecified() || a.IsLoopback() {
				local = append(local, f[1])
				continue
			}
			servers = append(servers, f[1])
		}
		b.WriteString(strings.Join(f, " ") + "\n")
	}
	return b.String(), servers, local
}
