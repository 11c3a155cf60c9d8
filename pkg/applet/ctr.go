package applet

import (
	"fmt"
	"os"

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

// ctrArgs puts the defaults before the user's flags, so that these win.
func ctrArgs(args []string, getenv func(string) string) []string {
	out := []string{"ctr"}
	if getenv("CONTAINERD_ADDRESS") == "" {
		out = append(out, "--address", paths.New(paths.DefaultData).ContainerdSocket())
	}
	if getenv(namespaces.NamespaceEnvVar) == "" {
		out = append(out, "--namespace", "k8s.io")
	}
	return append(out, args...)
}
