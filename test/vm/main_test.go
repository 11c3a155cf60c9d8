package vm

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"skiff/test/images"
)

func TestMain(m *testing.M) {
	Init()
	os.Exit(m.Run())
}

// tool is the archive of images.Tool, made once per run.
var tool = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "skiff-vm-tool-")
	if err != nil {
		return "", err
	}
	return images.WriteTool("../..", dir)
})

// needBase is the Debian that all machines boot, where these tests are wanted.
func needBase(t *testing.T) Base {
	t.Helper()
	if os.Getenv("SKIFF_VM") == "" {
		t.Skip("takes many minutes on a translated machine: set SKIFF_VM=1, or run make vmtest")
	}
	for _, program := range []string{qemuProgram, "debootstrap", "mke2fs"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v; install the Debian packages qemu-system-x86, debootstrap and e2fsprogs", err)
		}
	}
	base, err := MakeBase("../../build/vm")
	if err != nil {
		t.Fatal(err)
	}
	return base
}

// newMachine is a Debian machine that has just been switched on, with the
// files of an installation in /opt/vm, or those that the options name.
func newMachine(t *testing.T, network bool) *Machine {
	t.Helper()
	return newMachineWith(t, Options{Network: network})
}

func newMachineWith(t *testing.T, o Options) *Machine {
	t.Helper()
	o.Base = needBase(t)
	archive, err := tool()
	if err != nil {
		t.Fatal(err)
	}
	o.Files = maps.Clone(o.Files)
	if o.Files == nil {
		o.Files = map[string]string{"skiff": skiffBinary(), "skiff.service": "../../docs/skiff.service"}
	}
	o.Files["tool.tar"] = archive
	m := New(t, o)
	m.Boot()
	return m
}

// skiffBinary is the executable under test: $SKIFF_BIN, else what make built.
func skiffBinary() string {
	if path := os.Getenv("SKIFF_BIN"); path != "" {
		return path
	}
	return filepath.Join("..", "..", "bin", "skiff")
}

// install does what a person does to have skiff as a service.
func install(m *Machine) {
	m.t.Helper()
	m.Run(`set -e
		install -m 755 /opt/vm/skiff /usr/local/bin/skiff
		install -m 644 /opt/vm/skiff.service /etc/systemd/system/skiff.service
		install -D -m 644 /opt/vm/tool.tar /var/lib/skiff/agent/images/tool.tar
		sync`)
	begin := time.Now()
	m.Run("systemctl enable --now skiff")
	m.t.Logf("systemctl enable --now skiff took %s", time.Since(begin).Round(time.Second))
}
