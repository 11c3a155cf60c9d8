package server

import (
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"strconv"

	"skiff/pkg/address"
	"skiff/pkg/clock"
	"skiff/pkg/config"
	"skiff/pkg/join"
	"skiff/pkg/pki"
	"skiff/pkg/token"
)

// identity is what proves to others who this server is, and what it gives to
// those that join.
type identity struct {
	cfg     config.Completed
	book    *address.Book
	store   *pki.Store
	renewer *pki.Renewer
	join    *join.Server
	logger  *slog.Logger
}

func newIdentity(cfg config.Completed, book *address.Book, time *clock.Keeper, logger *slog.Logger) (*identity, error) {
	i := &identity{cfg: cfg, book: book, logger: logger}
	i.store = pki.NewStore(cfg.Paths.ServerTLS(), nil, logger)
	i.store.Known, i.store.Settled = time.Floor, time.Settled
	if cfg.Server.LeafLifetime > 0 {
		i.store.Lifetime = cfg.Server.LeafLifetime
	}
	admin := pki.KubeconfigFile{Name: pki.ClientAdmin, Path: cfg.Server.WriteKubeconfig, Server: cfg.LocalURL()}
	if m := cfg.Server.WriteKubeconfigMode; m != "" {
		mode, err := strconv.ParseUint(m, 8, 9)
		if err != nil {
			return nil, fmt.Errorf("invalid --write-kubeconfig-mode %q: want an octal file mode such as 0600: %w", m, err)
		}
		admin.Mode = fs.FileMode(mode)
	}
	i.renewer = &pki.Renewer{Store: i.store, Tree: pki.Tree, Facts: i.facts, Moved: book.Changed, Jumped: time.Jumped, Kubeconfigs: []pki.KubeconfigFile{admin}, Logger: logger}
	i.join = &join.Server{Store: i.store, Cluster: i.cluster, Reserved: i.reserved, Logger: logger}
	return i, nil
}

// ensure brings certificates, kubeconfig and token onto the disk.
func (i *identity) ensure() error {
	report, err := i.renewer.Ensure()
	report.Log(i.logger)
	if err != nil {
		return fmt.Errorf("prepare certificates in %s: %w", i.store.Dir, err)
	}
	t, created, err := token.EnsureFile(i.cfg.Paths.Token(), i.store.CertPEM(pki.ServerCA))
	if err != nil {
		return fmt.Errorf("prepare join token: %w", err)
	}
	if created {
		i.logger.Info("join token made", "file", i.cfg.Paths.Token())
	}
	i.join.Token = t
	return nil
}

// facts is asked again and again while skiff runs: an address that the host
// gets later becomes part of the certificate.
func (i *identity) facts() pki.Facts {
	c := i.cfg
	f := pki.Facts{
		NodeName:   c.Node.Name,
		Hostname:   c.Hostname,
		Addresses:  append([]netip.Addr{i.book.Advertised()}, i.book.Node()...),
		ServiceIPs: c.KubernetesServiceIPs(),
		Domain:     c.Cluster.Domain,
		Extra:      c.Server.TLSSAN,
	}
	for _, a := range []netip.Addr{c.Server.BindAddress, c.InternalAddress} {
		if a.IsValid() && !a.IsUnspecified() {
			f.Addresses = append(f.Addresses, a)
		}
	}
	return f
}

// cluster is what joining nodes are told.
func (i *identity) cluster() join.Cluster {
	c := i.cfg.Cluster
	var disabled []string
	for _, part := range config.PartNames() {
		if i.cfg.Disabled(part) {
			disabled = append(disabled, part)
		}
	}
	return join.Cluster{
		Disable:        disabled,
		PodCIDR:        c.PodCIDR,
		ServiceCIDR:    c.ServiceCIDR,
		DNS:            c.DNS,
		Domain:         c.Domain,
		FlannelBackend: c.FlannelBackend, FlannelExternalIP: c.FlannelExternalIP, FlannelIPv6Masq: c.FlannelIPv6Masq,
		Servers: []string{netip.AddrPortFrom(i.book.Advertised(), uint16(i.cfg.Server.Port)).String()}, //nolint:gosec // Ports are validated by pkg/config.
	}
}

// reserved are addresses that no other machine may get a certificate for. By
// the loopback address nodes know a server.
func (i *identity) reserved() []netip.Prefix {
	list := append([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}, i.cfg.Cluster.ServiceCIDR...)
	for _, a := range append([]netip.Addr{i.book.Advertised()}, i.book.Node()...) {
		list = append(list, netip.PrefixFrom(a, a.BitLen()))
	}
	return list
}
