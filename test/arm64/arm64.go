// Package arm64 runs the executable for arm64 on another machine: its programs
// by themselves under qemu's user mode, and a whole node under a Linux of its
// own, that Debian has built for arm64 and qemu emulates. Every instruction is
// translated, so all is some ten times slower, and `go test` skips it unless
// SKIFF_ARM64 is set; `make arm64-test` runs it.
//
// In user mode a program's system calls go to this machine's kernel, and qemu
// knows too few of them for containers. The emulated machine has no disk and no
// network card: its file system is unpacked into memory, and the loopback
// interface is enough for a node. It knows nothing of what test/vm can do with a
// machine for amd64. Start reading at Machine.
package arm64

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kernelPackage is Debian's kernel for virtual machines.
const kernelPackage = "linux-image-cloud-arm64"

// Machine is an emulated computer.
type Machine struct {
	Dir     string            // scratch space, some hundred MB
	Files   map[string]string // path inside: file here
	Scripts map[string]string // name inside: text; /init is the first process
}

// Run boots the machine and calls line for each line of its console until it
// switches itself off.
func (m Machine) Run(ctx context.Context, line func(string)) error {
	root := filepath.Join(m.Dir, "root")
	if err := fetch(m.Dir, root); err != nil {
		return err
	}
	initrd, err := m.initrd(root)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "nice", "-n", "10", "qemu-system-aarch64",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-M", "virt", "-cpu", "cortex-a72", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "4096",
		"-kernel", filepath.Join(m.Dir, "vmlinuz"), "-initrd", initrd, "-append", "console=ttyAMA0 panic=-1 quiet",
		"-serial", "stdio", "-device", "virtio-rng-pci", "-nic", "none")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start qemu-system-aarch64 (Debian package qemu-system-arm): %w", err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line(strings.TrimRight(lines.Text(), "\r"))
	}
	return cmd.Wait()
}

// fetch unpacks Debian's kernel for arm64, its modules and busybox into root;
// nothing is installed. The kernel lies beside root.
func fetch(dir, root string) error {
	script := `set -e
mkdir -p "$2" && cd "$1"
kernel=$(apt-cache depends ` + kernelPackage + `:arm64 | sed -n 's/^ *Depends: \(linux-image-[^:]*\).*/\1/p' | head -n 1)
for name in "$kernel" busybox-static; do
	ls "$name"_*.deb >/dev/null 2>&1 || apt-get -qq -o APT::Sandbox::User=root download "$name:arm64"
	dpkg-deb -x "$name"_*.deb "$2"
done
cp "$2"/boot/vmlinuz-* vmlinuz
busybox depmod -b "$2" "$(ls "$2/lib/modules")"
rm -rf "$2/boot" "$2/usr"`
	if out, err := exec.Command("/bin/sh", "-c", script, "sh", dir, root).CombinedOutput(); err != nil {
		return fmt.Errorf("fetch %s and busybox-static for arm64: %w\n%s", kernelPackage, err, out)
	}
	return nil
}

// initrd packs root and the machine's files into the archive that the kernel
// unpacks into memory.
func (m Machine) initrd(root string) (string, error) {
	for _, d := range []string{"bin", "sbin", "dev", "proc", "sys", "run", "tmp", "etc", "new", "var"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return "", err
		}
	}
	for inside, from := range m.Files {
		to := filepath.Join(root, inside)
		data, err := os.ReadFile(from)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, data, 0o755)); err != nil {
			return "", err
		}
	}
	for name, script := range m.Scripts {
		if err := os.WriteFile(filepath.Join(root, name), []byte(script), 0o755); err != nil {
			return "", err
		}
	}
	initrd := filepath.Join(m.Dir, "initrd")
	pack := exec.Command("/bin/sh", "-c", `cd "$1" && find . | busybox cpio -o -H newc >"$2"`, "sh", root, initrd)
	if out, err := pack.CombinedOutput(); err != nil {
		return "", fmt.Errorf("pack the file system: %w\n%s", err, out)
	}
	return initrd, nil
}
