package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"skiff/pkg/join/password"
)

func nodeCommand() *cli.Command {
	return &cli.Command{
		Name:   "node",
		Usage:  "manage the machines of the cluster",
		Action: subcommandHelp,
		Subcommands: []*cli.Command{{
			Name: "forget", Usage: "let another machine, or a re-installed one, join by the name of a node", ArgsUsage: "NODE",
			Description: "A node name belongs to the machine that joined with it first. After this command it\n" +
				"belongs to the next machine that joins with it and a token. The Node object stays as\n" +
				"it is; whoever deletes that need not run this.",
			Flags: adminFlags(), Action: forgetNode,
		}},
	}
}

func forgetNode(c *cli.Context) error {
	if c.NArg() != 1 {
		return usage(fmt.Errorf("%s wants the name of one node; flags come before it", c.Command.HelpName))
	}
	a, err := newAdmin(c)
	if err != nil {
		return err
	}
	name := c.Args().First()
	had, err := password.Forget(c.Context, a.client, name)
	if err != nil {
		return a.explain(err)
	}
	if !had {
		return fmt.Errorf("no machine has the node name %q; `skiff kubectl get nodes` shows the names", name)
	}
	return printLines(c.App.Writer, fmt.Sprintf("The next machine that joins as %s with a token has the name.", name))
}
