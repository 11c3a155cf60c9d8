package cli

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"skiff/pkg/config"
)

// docsCommand serves `make generate`.
func docsCommand() *cli.Command {
	return &cli.Command{
		Name:   "generate-docs",
		Usage:  "print docs/reference/flags.md",
		Hidden: true,
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			if _, err := io.WriteString(c.App.Writer, config.Reference()); err != nil {
				return fmt.Errorf("write reference: %w", err)
			}
			return nil
		},
	}
}
