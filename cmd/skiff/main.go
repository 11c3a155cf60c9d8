// Command skiff is Kubernetes in one executable. Start reading at pkg/cli; what
// runs in the end is put together in pkg/server and pkg/agent.
package main

import (
	"context"
	"os"

	"skiff/internal/roots"
	"skiff/pkg/applet"
	"skiff/pkg/cli"
	"skiff/pkg/paths"
)

func main() {
	os.Exit(run(os.Args))
}

// run chooses between skiff and the programs it contains before anything else
// happens, because those must start fast and parse their own flags.
func run(args []string) int {
	roots.Fallback(paths.Authorities())
	if a, rest := applet.Find(applet.Table(), args); a != nil {
		return a.Main(rest)
	}
	return cli.Run(context.Background(), args)
}
