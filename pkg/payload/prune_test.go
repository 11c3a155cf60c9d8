package payload

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPrune(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	p := pack(t, carried())
	must(t, p.Stage(dir, "nft", "runc"))
	sleep, err := exec.LookPath("sleep")
	must(t, err)
	program, err := os.ReadFile(sleep)
	must(t, err)
	for name, text := range map[string]string{
		"old-shim": string(program), "old-shim.d/lib": "its library", "crun": "of another version", "nft.d/old": "the same", "iptables.d/lib": "the same", ".runc.tmp": "half",
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
	}
	shim := exec.CommandContext(t.Context(), filepath.Join(dir, "old-shim"), "1000")
	must(t, shim.Start())
	removed, err := p.Prune(dir)
	must(t, err)
	if diff := cmp.Diff([]string{filepath.Join(dir, "crun"), filepath.Join(dir, "iptables.d/lib"), filepath.Join(dir, "nft.d/old")}, removed); diff != "" {
		t.Errorf("removed while a shim runs (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(filepath.Join(dir, "iptables.d")); err == nil {
		t.Error("an empty directory is left")
	}

	must(t, shim.Process.Kill())
	_ = shim.Wait()
	removed, err = p.Prune(dir)
	must(t, err)
	if diff := cmp.Diff([]string{filepath.Join(dir, "old-shim"), filepath.Join(dir, "old-shim.d/lib")}, removed); diff != "" {
		t.Errorf("removed when the shim has ended (-want +got):\n%s", diff)
	}
	want := map[string]string{}
	for name, file := range carried() {
		if name != "licenses/libc" {
			want[name] = string(file.Data)
		}
	}
	must(t, os.Remove(filepath.Join(dir, ".runc.tmp")))
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Errorf("what is needed (-want +got):\n%s", diff)
	}
	if removed, err := open(t, []byte("\x7fELF without a ZIP")).Prune(dir); err != nil || removed != nil {
		t.Errorf("Prune without payload: %v, %v", removed, err)
	}
}
