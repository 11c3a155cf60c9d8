package k3s

import (
	"path/filepath"
	"strings"
)

// running tells what a process is: "k3s", "a pod" of it (its shim), or "".
func running(comm, cmdline, run string) string {
	args := strings.Split(strings.TrimRight(cmdline, "\x00"), "\x00")
	name := filepath.Base(args[0])
	switch comm = strings.TrimSpace(comm); {
	case name == "k3s" || name == "k3s-server" || name == "k3s-agent" || comm == "k3s-server" || comm == "k3s-agent":
		return "k3s"
	case strings.HasPrefix(comm, "containerd-shim") && strings.Contains(cmdline, run+"/"):
		return "a pod"
	}
	return ""
}
