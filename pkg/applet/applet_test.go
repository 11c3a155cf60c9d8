package applet

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFind(t *testing.T) {
	table := []Applet{{Name: "kubectl"}, {Name: "ctr"}}
	tests := []struct {
		argv []string
		want string
		args []string
	}{
		{argv: []string{"/usr/local/bin/kubectl", "get", "ctr"}, want: "kubectl", args: []string{"get", "ctr"}},
		{argv: []string{"skiff", "kubectl", "get"}, want: "kubectl", args: []string{"get"}},
		{argv: []string{"./bin/skiff", "ctr"}, want: "ctr", args: []string{}},
		{argv: []string{"skiff", "server", "kubectl"}},
		{argv: []string{"skiff", "--debug", "kubectl"}},
		{argv: []string{"skiff"}},
		{argv: nil},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.argv, " "), func(t *testing.T) {
			a, args := Find(table, tt.argv)
			name := ""
			if a != nil {
				name = a.Name
			}
			if diff := cmp.Diff(tt.want, name); diff != "" {
				t.Errorf("applet (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.args, args); diff != "" {
				t.Errorf("arguments (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDefaultKubeconfig(t *testing.T) {
	home, dir := t.TempDir(), t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("KUBECONFIG", "")
	admin := filepath.Join(dir, "skiff.yaml")

	file, err := defaultKubeconfig(admin, nil)
	if file != admin || err == nil || !strings.Contains(err.Error(), admin) {
		t.Errorf("missing file: got %q, %v", file, err)
	}
	if err := os.WriteFile(admin, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if file, err := defaultKubeconfig(admin, []string{"exec", "p", "--", "x", "--kubeconfig", "y"}); file != admin || err != nil {
		t.Errorf("readable file: got %q, %v", file, err)
	}
	for _, args := range [][]string{{"get", "--kubeconfig", "x"}, {"--kubeconfig=x", "get"}} {
		if file, err := defaultKubeconfig(admin, args); file != "" || err != nil {
			t.Errorf("%v: got %q, %v", args, file, err)
		}
	}
	t.Setenv("KUBECONFIG", "/elsewhere")
	if file, err := defaultKubeconfig(admin, nil); file != "" || err != nil {
		t.Errorf("KUBECONFIG: got %q, %v", file, err)
	}
	t.Setenv("KUBECONFIG", "")
	own := filepath.Join(home, ".kube", "config")
	if err := errors.Join(os.MkdirAll(filepath.Dir(own), 0o700), os.WriteFile(own, nil, 0o600), os.Remove(admin)); err != nil {
		t.Fatal(err)
	}
	if file, err := defaultKubeconfig(admin, nil); file != "" || err != nil {
		t.Errorf("own configuration: got %q, %v", file, err)
	}
}
