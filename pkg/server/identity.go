package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"strconv"

	"k8s.io/client-go/kubernetes"

	"skiff/pkg/address"
	"skiff/pkg/clock"
	"skiff/pkg/config"
	"skiff/pkg/join"
	"skiff/pkg/join/bootstrap"
	"skiff/pkg/join/password"
	"skiff/pkg/pki"
	"skiff/pkg/token"
	"skiff/pkg/version"
)

// identity is what proves to others who this server is, and what it gives to
// those that join.
type identity struct {
	cfg     config.Completed
	book    *address.Book
	store   *pki.Store
	renewer *pki.Renewer
	join    *join.Server
	// names is who has which node name, in the cluster.
	names  *password.Keeper
	logger *slog.Logger
}

// newIdentity makes the parts; client reaches the API, and returns nil while
// there is none.
func newIdentity(cfg config.Completed, book *address.Book, time *clock.Keeper, client func() kubernetes.Interface, logger *slog.Logger) (*identity, error) {
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
	i.renewer.Changed = i.renewed
	i.names = password.New(client, i.store.Now, logger)
	i.join = join.NewServer(join.Server{
		Store: i.store, TokenFile: cfg.Paths.AgentToken(), Names: i.names,
		Bootstrap: &bootstrap.Verifier{Client: client, Now: i.store.Now},
		Cluster:   i.cluster, Own: cfg.Node.Name, Reserved: i.reserved, Version: version.Version, Logger: logger,
	})
	return i, nil
}

// ensure brings certificates, kubeconfig and token onto the disk.
func (i *identity) ensure() error {
	report, err := i.renewer.Ensure()
	report.Log(i.logger)
	if err != nil {
		return fmt.Errorf("prepare certificates in %s: %w", i.store.Dir, err)
	}
	server, agent, err := givenTokens(i.cfg.Join)
	if err != nil {
		return err
	}
	files := token.Files{Server: i.cfg.Paths.Token(), Agent: i.cfg.Paths.AgentToken(), Node: i.cfg.Paths.NodeToken()}
	book, made, err := token.Open(files, i.store.CertPEM(pki.ServerCA), server, agent)
	if err != nil {
		return fmt.Errorf("prepare join tokens: %w", err)
	}
	for _, file := range made {
		i.logger.Info("join token made", "file", file)
	}
	i.join.Tokens = book
	return nil
}

// renewed writes the tokens again when the authority has another certificate,
// which they name.
func (i *identity) renewed(r pki.Report) {
	if !r.Changed(pki.ServerCA) {
		return
	}
	if err := i.join.Tokens.Pin(i.store.CertPEM(pki.ServerCA)); err != nil {
		i.logger.Error("the join tokens still name the old certificate of the authority", "error", err)
	}
}

// givenTokens reads the tokens that the configuration sets.
func givenTokens(c config.Join) (server, agent token.Token, err error) {
	server, err1 := token.Read("token", c.Token, c.TokenFile)
	agent, err2 := token.Read("agent-token", c.AgentToken, c.AgentTokenFile)
	if errors.Is(err1, token.ErrNone) {
		err1 = nil
	}
	if errors.Is(err2, token.ErrNone) {
		err2 = nil
	}
	return server, agent, errors.Join(err1, err2)
}

// keepNames does what is left to do once the API answers: no other machine may
// take the name of this server's node, also not at another server; and what
// was deleted while nobody looked is forgotten.
func (i *identity) keepNames(ctx context.Context) error {
	if !i.cfg.Server.DisableAgent {
		p, err := token.Password(i.cfg.Paths.NodePassword())
		if err != nil {
			return err
		}
		if err := i.names.Keep(ctx, join.Claim{Node: i.cfg.Node.Name, Password: p, Proven: true}); err != nil {
			return err
		}
	}
	if err := i.names.Sweep(ctx); err != nil {
		return err
	}
	<-ctx.Done()
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
		EgressMode: c.EgressSelectorMode,
		Servers:    []string{netip.AddrPortFrom(i.book.Advertised(), uint16(i.cfg.Server.Port)).String()}, //nolint:gosec // Ports are validated by pkg/config.
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
