package vm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// Base is an installed Debian: what a machine boots.
type Base struct {
	Kernel, Initrd string
	Disk           string // image of the root file system
}

const (
	// Suite is the Debian release that is installed.
	Suite    = "bookworm"
	mirror   = "http://deb.debian.org/debian"
	packages = "systemd-sysv,dbus,udev,kmod,iproute2,procps,ca-certificates,initramfs-tools,linux-image-cloud-amd64"

	rootLabel = "vm-root"
	optLabel  = "vm-opt"
	rootSize  = "6G" // sparse
	// optSpare is the free space that mke2fs needs beside the files, in MiB.
	optSpare = 64
)

// settings are the files in which the machine differs from a plain
// installation.
func settings() map[string]string {
	return map[string]string{
		"etc/hostname": "debian\n",
		"etc/hosts":    "127.0.0.1 localhost debian\n::1 localhost\n",
		"etc/fstab": "LABEL=" + rootLabel + " / ext4 defaults 0 0\n" +
			"LABEL=" + optLabel + " /opt/vm ext4 ro 0 0\n",
		"etc/systemd/network/80-dhcp.network": "[Match]\nName=en* eth*\n\n[Network]\nDHCP=ipv4\n",
		"etc/systemd/system/vm-agent.service": "[Unit]\nDescription=Commands of the test\nStartLimitIntervalSec=0\n\n" +
			// The port may appear later than the agent.
			"[Service]\nExecStart=/opt/vm/" + agentName + "\nKillMode=process\nRestart=always\nRestartSec=1\n\n[Install]\nWantedBy=multi-user.target\n",
	}
}

// MakeBase installs Debian below dir, unless that was done already; it takes a
// minute or two. It needs root, the Debian packages debootstrap and e2fsprogs,
// and a Debian mirror.
func MakeBase(dir string) (Base, error) {
	recipe := sha256.Sum256(fmt.Append(nil, Suite, mirror, packages, rootLabel, optLabel, rootSize, settings()))
	home := filepath.Join(dir, fmt.Sprintf("%s-%x", Suite, recipe[:6]))
	base := Base{
		Kernel: filepath.Join(home, "vmlinuz"),
		Initrd: filepath.Join(home, "initrd.img"),
		Disk:   filepath.Join(home, "root.ext4"),
	}
	if _, err := os.Stat(home); !errors.Is(err, fs.ErrNotExist) {
		return base, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Base{}, err
	}
	work, err := os.MkdirTemp(dir, "new-")
	if err != nil {
		return Base{}, err
	}
	defer os.RemoveAll(work)
	if err := debootstrap(work); err != nil {
		return Base{}, fmt.Errorf("install Debian: %w", err)
	}
	return base, os.Rename(filepath.Join(work, "base"), home)
}

// debootstrap leaves the files of a Base in work/base.
func debootstrap(work string) error {
	root, base := filepath.Join(work, "root"), filepath.Join(work, "base")
	if err := command("debootstrap", "--variant=minbase", "--include="+packages, Suite, root, mirror); err != nil {
		return err
	}
	for name, content := range settings() {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	for _, d := range []string{filepath.Join(root, "opt/vm"), filepath.Join(root, "var/log/journal"), base} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := command("chroot", root, "systemctl", "enable", "vm-agent", "systemd-networkd"); err != nil {
		return err
	}
	for name, pattern := range map[string]string{"vmlinuz": "boot/vmlinuz-*", "initrd.img": "boot/initrd.img-*"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		if len(found) != 1 {
			return fmt.Errorf("find the kernel: %q matches %d files, want 1", pattern, len(found))
		}
		if err := command("cp", found[0], filepath.Join(base, name)); err != nil {
			return err
		}
	}
	return makeFileSystem(filepath.Join(base, "root.ext4"), rootLabel, root, rootSize)
}

// makeOpt makes the file system that is /opt/vm in the machine: the agent,
// which is this executable, and files.
func makeOpt(image string, files map[string]string) error {
	dir, err := os.MkdirTemp("", "skiff-vm-opt-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	size := int64(optSpare)
	add := func(name, from string) error {
		info, err := os.Stat(from)
		if err != nil {
			return err
		}
		size += info.Size() >> 20
		return command("cp", from, filepath.Join(dir, name))
	}
	if err := add(agentName, self); err != nil {
		return err
	}
	for name, from := range files {
		if err := add(name, from); err != nil {
			return err
		}
	}
	return makeFileSystem(image, optLabel, dir, fmt.Sprintf("%dM", size))
}

// makeFileSystem fills an image without mounting it.
func makeFileSystem(image, label, from, size string) error {
	return command("mke2fs", "-q", "-t", "ext4", "-L", label, "-d", from, image, size)
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w\n%s", name, err, tail(string(out), 20))
	}
	return nil
}
