// Package applet makes one executable be several programs: called by the name
// kubectl, ctr, crictl or containerd, or with that name as the first argument,
// skiff behaves like that program. It knows nothing of skiff's configuration
// and does no work before an applet is chosen. Start reading at Find.
package applet

import (
	"path/filepath"

	"skiff/pkg/applet/crictl"
)

// Main is an applet's main function. args are what follows the applet's name;
// the result is the exit code.
type Main func(args []string) int

// Applet is one program in the table.
type Applet struct {
	Name  string
	Usage string // one line for skiff's help
	// Hidden applets are for skiff itself to start.
	Hidden bool
	Main   Main
}

// Table lists the applets in the order of skiff's help.
func Table() []Applet {
	return []Applet{
		{Name: "kubectl", Usage: "control the cluster, as its administrator by default", Main: kubectlMain},
		{Name: "crictl", Usage: "inspect pods, containers and images on this node", Main: crictl.Main},
		{Name: "ctr", Usage: "talk to this node's containerd", Main: ctrMain},
		{Name: "containerd", Usage: "the container runtime, started by the server", Hidden: true, Main: containerdMain},
	}
}

// Find returns the applet that a command line asks for, and its arguments, or
// nil: by the base name of argv[0] (a symbolic link), else by the first
// argument. It must run before anything looks at flags.
func Find(table []Applet, argv []string) (*Applet, []string) {
	for depth := range min(2, len(argv)) {
		name := argv[depth]
		if depth == 0 {
			name = filepath.Base(name)
		}
		for i := range table {
			if table[i].Name == name {
				return &table[i], argv[depth+1:]
			}
		}
	}
	return nil, nil
}
