package applet

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCtrArgs(t *testing.T) {
	const socket = "/run/skiff/containerd/containerd.sock"
	for _, c := range []struct {
		name string
		args []string
		env  map[string]string
		want []string
	}{
		{"nothing", nil, nil, []string{"ctr", "--address", socket, "--namespace", "k8s.io"}},
		{"command", []string{"images", "ls", "-q"}, nil, []string{"ctr", "--address", socket, "--namespace", "k8s.io", "images", "ls", "-q"}},
		{"short", []string{"--debug", "-n", "x", "images"}, nil, []string{"ctr", "--address", socket, "--debug", "-n", "x", "images"}},
		{"long", []string{"--namespace=x", "-a", "/y", "version"}, nil, []string{"ctr", "--namespace=x", "-a", "/y", "version"}},
		{"flag of a command", []string{"run", "-n", "x"}, nil, []string{"ctr", "--address", socket, "--namespace", "k8s.io", "run", "-n", "x"}},
		{"environment", []string{"version"}, map[string]string{"CONTAINERD_ADDRESS": "/y"}, []string{"ctr", "--namespace", "k8s.io", "version"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ctrArgs(c.args, func(k string) string { return c.env[k] })
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("arguments (-want +got):\n%s", diff)
			}
		})
	}
}
