package dns

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"

	"skiff/internal/filewatch"
)

// maxResolvers bounds the upstreams; the forward plug-in refuses more than 15.
const maxResolvers = 8

// resolvers knows whom the host asks. It reads files only; it never falls back
// to a resolver that nobody configured.
type resolvers struct {
	file, systemd string
	changed       func()
	logger        *slog.Logger
}

// list returns the host's resolvers, without those in own, which would make us
// ask ourselves.
func (r *resolvers) list(own []netip.Addr) []string {
	servers := r.read(r.file)
	if slices.ContainsFunc(servers, isSystemdStub) {
		if real := r.read(r.systemd); len(real) > 0 {
			servers = real
		}
	}
	return filterResolvers(servers, own)
}

func (r *resolvers) read(file string) []netip.Addr {
	if file == "" {
		return nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			r.logger.Warn("resolver file is left out", "file", file, "error", err)
		}
		return nil
	}
	return parseResolvConf(b)
}

// parseResolvConf returns the nameserver lines of resolv.conf(5) that are
// addresses.
func parseResolvConf(b []byte) []netip.Addr {
	var out []netip.Addr
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// isSystemdStub reports whether a is one of the addresses on which
// systemd-resolved itself answers (resolved.conf(5), DNSStubListener).
func isSystemdStub(a netip.Addr) bool {
	return a == netip.AddrFrom4([4]byte{127, 0, 0, 53}) || a == netip.AddrFrom4([4]byte{127, 0, 0, 54})
}

// filterResolvers leaves out own and what cannot be asked. Other loopback
// resolvers stay: we run in the host's network, where they answer.
func filterResolvers(servers, own []netip.Addr) []string {
	var out []string
	for _, a := range servers {
		if a.IsUnspecified() || a.IsMulticast() || slices.Contains(own, a.WithZone("")) || slices.Contains(out, a.String()) {
			continue
		}
		if len(out) == maxResolvers {
			break
		}
		out = append(out, a.String())
	}
	return out
}

// watch calls changed whenever one of the resolver files may have changed, until
// ctx ends.
func (r *resolvers) watch(ctx context.Context) {
	filewatch.Run(ctx, []string{r.file, r.systemd}, r.logger, r.changed)
}
