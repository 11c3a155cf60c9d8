package preflight

import "strings"

// Limit is a kernel setting that must not be lower than Min.
type Limit struct {
	Name string // below /proc/sys
	Min  int
}

// Sysctl is the setting's name as sysctl(8) writes it.
func (l Limit) Sysctl() string { return strings.ReplaceAll(l.Name, "/", ".") }

// Limits are the kernel settings that a node raises when it starts. The
// kernel's 128 inotify instances are for all processes of root together: a node
// needs thirty, each `kubectl logs -f` one more, and what fails without them
// (certificate reload, log following, static pods) fails quietly. The values
// are kubelet documentation's for busy nodes.
func Limits() []Limit {
	return []Limit{
		{"fs/inotify/max_user_instances", 8192},
		{"fs/inotify/max_user_watches", 524288},
	}
}
