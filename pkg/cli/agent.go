package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"skiff/pkg/address"
	"skiff/pkg/agent"
	"skiff/pkg/agent/lb"
	"skiff/pkg/clock"
	"skiff/pkg/component"
	"skiff/pkg/config"
	"skiff/pkg/join"
	"skiff/pkg/kube"
	"skiff/pkg/kube/economy"
	"skiff/pkg/kube/series"
	"skiff/pkg/paths"
	"skiff/pkg/payload"
	"skiff/pkg/preflight"
	"skiff/pkg/token"
	"skiff/pkg/version"
)

func agentCommand() *cli.Command {
	return &cli.Command{
		Name:  "agent",
		Usage: "make this machine a node of the cluster of a server elsewhere",
		Flags: optionFlags(config.RoleAgent),
		Action: func(c *cli.Context) error {
			if err := preflight.Root(); err != nil {
				return err
			}
			cfg, origins, err := load(c, config.RoleAgent)
			if err != nil {
				return err
			}
			w := &worker{cfg: cfg}
			if w.token, err = readToken(cfg); err != nil {
				return usage(err)
			}
			environ := os.Environ() // before serve changes it
			err = serve(c.Context, cfg, origins, c.App.ErrWriter, command{before: w.join, compose: w.compose})
			if _, ok := errors.AsType[*restartError](err); ok {
				return restart(environ)
			}
			return err
		},
	}
}

// readToken returns the join token, empty if none was given.
func readToken(cfg config.Completed) (token.Token, error) {
	t, err := token.Read("token", cfg.Join.Token, cfg.Join.TokenFile)
	if errors.Is(err, token.ErrNone) {
		return token.Token{}, nil
	}
	return t, err
}

// worker is a node that runs no control plane. It starts from what joining has
// left on disk; only the first time a server must be there. See docs/adr on the
// start of an agent.
type worker struct {
	cfg    config.Completed
	token  token.Token
	bundle *join.Bundle
	clock  *clock.Keeper
}

func (w *worker) client(p parts) *join.Client {
	url := w.cfg.Agent.Server
	if url == "" {
		url = w.cfg.APIURL() // The balancer knows servers.
	}
	return &join.Client{
		Floor: w.clock.Floor, Heard: w.clock.Heard,
		URL: url, APIServer: w.cfg.APIURL(), Token: w.token,
		TLSDir: w.cfg.Paths.AgentTLS(), CredDir: w.cfg.Paths.AgentCred(),
		PasswordFile: w.cfg.Paths.NodePassword(), Machine: join.Machine(paths.ProductUUID, paths.BoardSerial),
		Logger: p.logger.With("component", "join"),
	}
}

// join sees to it that the node knows who it is and what its cluster is like,
// which takes a server the first time.
func (w *worker) join(ctx context.Context, p parts) error {
	info := join.NodeInfo{Name: w.cfg.Node.Name, Addresses: w.cfg.Node.IP, Version: version.Version}
	w.clock = newClock(w.cfg, p)
	client := w.client(p)
	bundle, why := client.Stored(info)
	if bundle == nil {
		if w.cfg.Agent.Server == "" || w.token.Secret == "" {
			return usage(fmt.Errorf("join a cluster: --server and --token are needed, since there is nothing to start from (%s)", why))
		}
		p.logger.Info("this node joins a cluster", "node", info.Name, "server", w.cfg.Agent.Server, "reason", why)
		var err error
		if bundle, err = w.firstJoin(ctx, p, client, info); bundle == nil || err != nil {
			return err
		}
	}
	c := bundle.Cluster
	cfg, err := w.cfg.InCluster(config.Cluster{
		PodCIDR: c.PodCIDR, ServiceCIDR: c.ServiceCIDR, DNS: c.DNS, Domain: c.Domain, FlannelBackend: c.FlannelBackend,
		FlannelExternalIP: c.FlannelExternalIP, FlannelIPv6Masq: c.FlannelIPv6Masq,
		EgressSelectorMode: cmp.Or(c.EgressMode, "agent"),
	}, c.Disable)
	if err != nil {
		return fmt.Errorf("be a node of this cluster, as its server has set it up: %w", err)
	}
	w.cfg, w.bundle = cfg, bundle
	return nil
}

var errJoined = errors.New("the node has joined and can start")

// firstJoin asks the server until it has an answer. So that a person can see
// what is missing it is a group of its own; it returns nil if ctx ends before.
func (w *worker) firstJoin(ctx context.Context, p parts, client *join.Client, info join.NodeInfo) (*join.Bundle, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g := component.NewGroup(p.logger)
	g.Add(statusServer(w.cfg, g, p.notes, nil, p.logger))
	member := &join.Member{
		Client: client, Node: info, Logger: p.logger.With("component", "join"),
		Changed: func(*join.Bundle) { cancel(errJoined) },
	}
	g.Add(member)
	err := g.Run(ctx)
	return member.Bundle(), err
}

// compose adds the node to the group.
func (w *worker) compose(g *component.Group, p parts) (closeAll func() error, err error) {
	if err := kube.Setup(kube.Options{Extra: w.cfg.Extra, Fail: p.fail}); err != nil {
		return nil, usage(err)
	}
	book := address.NewBook(w.cfg, gatherFacts, p.logger.With("component", "addresses"))
	g.Add(book)
	g.Add(w.clock)
	registries := series.Separate()
	client := w.client(p)
	var node *agent.Agent
	var balancer *lb.Balancer
	thrift := new(economy.Economy) // The balancer's client and the node's share connections.
	servers := func() ([]string, <-chan struct{}) { return []string{w.cfg.ServerHostPort()}, nil }
	if !w.cfg.Agent.DisableLB {
		balancer = lb.New(lb.Options{
			Port: w.cfg.Agent.LBPort, Given: w.cfg.ServerHostPort(), File: w.cfg.Paths.Servers(),
			Kubeconfig: w.bundle.Kubeconfig("skiff-agent"), Wrap: thrift.Wrap, Returned: func() { node.AskServer() }, Notes: p.notes, Logger: p.logger.With("component", "load-balancer"),
		})
		client.Dial = balancer.DialContext
		servers = balancer.Servers
	}
	learn := func(b *join.Bundle) {
		if balancer != nil {
			balancer.Learn(b.Cluster.Servers)
		}
		if !b.Cluster.Same(w.bundle.Cluster) {
			p.fail(&restartError{"the cluster's settings have changed"})
		}
	}
	learn(w.bundle)
	files, err := payload.Open()
	if err != nil {
		return nil, err
	}
	node, err = agent.New(w.cfg, agent.Options{
		Logger: p.logger, Join: client, Joined: learn, Onward: thrift.Wrap, Balancer: balancer, Servers: servers, Payload: files, Notes: p.notes,
		Addresses: book, Clock: w.clock, Changes: p.changes, ProxyMetrics: registries.Handler(series.Proxy),
	})
	if err != nil {
		return nil, errors.Join(err, files.Close())
	}
	node.AddTo(g, agent.After{})
	return files.Close, nil
}
