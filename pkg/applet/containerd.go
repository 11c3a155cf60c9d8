package applet

import (
	"fmt"
	"os"

	"skiff/pkg/applet/containerd"
)

// containerdMain is the container runtime's own main, with the plug-ins of a
// Kubernetes node only.
func containerdMain(args []string) int {
	if err := containerd.Run(args); err != nil {
		fmt.Fprintf(os.Stderr, "containerd: %s\n", err)
		return 1
	}
	return 0
}
