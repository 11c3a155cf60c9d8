package cli

import (
	"fmt"
	"log/slog"
	"time"

	"skiff/pkg/address"
	"skiff/pkg/agent"
	"skiff/pkg/clock"
	"skiff/pkg/component"
	"skiff/pkg/config"
	"skiff/pkg/join"
	"skiff/pkg/kube"
	"skiff/pkg/kube/series"
	"skiff/pkg/payload"
	"skiff/pkg/pki"
	"skiff/pkg/server"
	"skiff/pkg/version"
)

// compose adds the control plane, and the node unless it is left out, to the
// group. The node joins as any other node does, only that its requests are
// function calls. close releases what the node holds; call it after the group
// has stopped.
func compose(g *component.Group, cfg config.Completed, p parts) (closeAll func() error, err error) {
	err = kube.Setup(kube.Options{Extra: cfg.Extra, Gates: server.Gates(cfg), Fail: p.fail})
	if err != nil {
		return nil, usage(err)
	}
	keeper := newClock(cfg, p)
	g.Add(keeper)
	book := address.NewBook(cfg, gatherFacts, p.logger.With("component", "addresses"))
	g.Add(book)
	registries := series.Separate()
	srv, err := server.New(cfg, server.Options{Logger: p.logger, Series: registries, Notes: p.notes, Addresses: book, Clock: keeper, AddOns: p.notes.SetAddOns})
	if err != nil {
		return nil, err
	}
	p.status.Nodes = srv.Nodes
	refs := srv.AddTo(g)
	if cfg.Server.DisableAgent {
		// Otherwise the node sees to it.
		if ip := cfg.InternalAddress; ip.IsValid() {
			if err := p.changes.AddLoopbackAddress(ip); err != nil {
				return nil, fmt.Errorf("give the host an internal address: %w", err)
			}
		}
		return func() error { return nil }, nil
	}

	files, err := payload.Open()
	if err != nil {
		return nil, err
	}
	node, err := agent.New(cfg, agent.Options{
		Logger: p.logger, Join: localJoin(cfg, srv, p.logger), Payload: files, Notes: p.notes, Addresses: book, Clock: keeper, Changes: p.changes, API: srv.Loopback, ProxyMetrics: registries.Handler(series.Proxy),
	})
	if err != nil {
		return nil, err
	}
	node.AddTo(g, agent.After{API: refs.API, Front: refs.Front, Controllers: refs.Controllers})
	return files.Close, nil
}

// newClock looks at the machine's clock, before anything depends on it.
func newClock(cfg config.Completed, p parts) *clock.Keeper {
	built := pki.BuildFloor()
	if stamped, err := time.Parse(time.RFC3339, version.BuildDate); err == nil && stamped.After(built) {
		built = stamped
	}
	return clock.New(clock.Options{File: cfg.Paths.ClockFile(), Built: built, Notes: p.notes, Logger: p.logger.With("component", "clock")})
}

// localJoin is how the node in this process joins: without a network, and
// without a token, since nobody else can come this way.
func localJoin(cfg config.Completed, srv *server.Server, logger *slog.Logger) *join.Client {
	return &join.Client{
		Transport:    srv.InProcess(),
		URL:          cfg.LocalURL(),
		TLSDir:       cfg.Paths.AgentTLS(),
		CredDir:      cfg.Paths.AgentCred(),
		PasswordFile: cfg.Paths.NodePassword(),
		Logger:       logger.With("component", "join"),
	}
}
