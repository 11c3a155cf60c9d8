package applet

import (
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/cmd/ctr/app"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"skiff/pkg/paths"
)

// ctrMain is upstream's ctr, which by default talks to skiff's containerd in
// the namespace that holds the pods.
func ctrMain(args []string) int {
	if err := app.New().Run(ctrArgs(args, os.Getenv)); err != nil {
		fmt.Fprintf(os.Stderr, "ctr: %s\n", err)
		return 1
	}
	return 0
}

// ctrArgs puts our defaults before the user's arguments, unless these or the
// environment have set the same: ctr does not take a flag together with its
// short form.
func ctrArgs(args []string, getenv func(string) string) []string {
	out, given := []string{"ctr"}, globalFlags(args)
	if getenv("CONTAINERD_ADDRESS") == "" && !given["a"] && !given["address"] {
		out = append(out, "--address", paths.New(paths.DefaultData).ContainerdSocket())
	}
	if getenv(namespaces.NamespaceEnvVar) == "" && !given["n"] && !given["namespace"] {
		out = append(out, "--namespace", "k8s.io")
	}
	return append(out, args...)
}

// globalFlags names the flags that stand before ctr's command.
func globalFlags(args []string) map[string]bool {
	given := map[string]bool{}
	for i := 0; i < len(args) && strings.HasPrefix(args[i], "-"); i++ {
		name, _, hasValue := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		given[name] = true
		switch name {
		case "debug", "help", "h", "version", "v":
		default:
			if !hasValue {
				i++ // the value is the next argument
			}
		}
	}
	return given
}
