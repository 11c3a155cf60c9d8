package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"skiff/pkg/component"
	"skiff/pkg/config"
	"skiff/pkg/preflight"
	"skiff/pkg/server"
)

func serverCommand() *cli.Command {
	return &cli.Command{
		Name:  "server",
		Usage: "run the control plane, and by default a node, on this machine",
		Flags: optionFlags(config.RoleServer),
		Action: func(c *cli.Context) error {
			if err := preflight.Root(); err != nil {
				return err
			}
			cfg, origins, err := load(c, config.RoleServer)
			if err != nil {
				return err
			}
			return serve(c.Context, cfg, origins, c.App.ErrWriter, command{
				requests: server.OnRequest(cfg),
				before: func(ctx context.Context, p parts) error {
					return server.Prepare(ctx, cfg, p.notes, p.logger.With("component", "snapshots"))
				},
				compose: func(g *component.Group, p parts) (func() error, error) { return compose(g, cfg, p) },
				hint:    serverHint(cfg),
			})
		},
	}
}

func serverHint(cfg config.Completed) string {
	kubectl := os.Args[0] + " kubectl"
	if cfg.Server.WriteKubeconfig != cfg.Paths.AdminKubeconfig() {
		kubectl = "KUBECONFIG=" + cfg.Server.WriteKubeconfig + " " + kubectl
	}
	return fmt.Sprintf("  kubeconfig  %s\n  try         %s get nodes\n", cfg.Server.WriteKubeconfig, kubectl)
}
