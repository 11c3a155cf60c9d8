package storage

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// imagesVariable names a directory with the file xfs.image, for a machine
// without mkfs.xfs: test/vm runs these tests in one whose kernel has quotas.
const imagesVariable = "SKIFF_TEST_IMAGES"

// quotaDisk mounts a file system that keeps project quotas, if this kernel can.
func quotaDisk(t *testing.T, kind string) string {
	t.Helper()
	dir := t.TempDir()
	image, mnt := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 320<<20), os.Mkdir(mnt, 0o700)); err != nil {
		t.Fatal(err)
	}
	make := exec.Command("mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", image)
	if kind == "xfs" {
		make = exec.Command("mkfs.xfs", "-q", "-f", image)
		if given := os.Getenv(imagesVariable); given != "" {
			make = exec.Command("cp", filepath.Join(given, "xfs.image"), image)
		}
	}
	if out, err := make.CombinedOutput(); err != nil {
		t.Skipf("make %s: %v: %s", kind, err, out)
	}
	if out, err := exec.Command("mount", "-t", kind, "-o", "loop,prjquota", image, mnt).CombinedOutput(); err != nil {
		t.Skipf("mount %s with project quotas, for which the kernel needs CONFIG_QFMT_V2 or CONFIG_XFS_QUOTA: %v: %s", kind, err, out)
	}
	t.Cleanup(func() {
		if err := exec.Command("umount", mnt).Run(); err != nil {
			t.Error(err)
		}
	})
	d := &dirs{base: mnt}
	if _, unlimited, err := d.create("probe_shop_data", 4096); err != nil || unlimited != "" {
		if kind == "xfs" && strings.Contains(unlimited, "xfs without project quotas") {
			t.Skip("this kernel mounts xfs with prjquota and has no quotas on it (CONFIG_XFS_QUOTA)")
		}
		t.Fatalf("create: %v, unlimited: %s", err, unlimited)
	}
	return mnt
}

// write writes a file as a user without privileges: ext4 lets CAP_SYS_RESOURCE
// go beyond limits, which root has here and no container has by default.
func write(t *testing.T, path string, size int) error {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var message bytes.Buffer
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234}}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(make([]byte, size)), f, &message
	if cmd.Run() != nil {
		return errors.New(message.String())
	}
	return nil
}

func TestQuota(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) { tryQuota(t, quotaDisk(t, kind)) })
	}
}

func tryQuota(t *testing.T, disk string) {
	base := filepath.Join(disk, "storage")
	d := &dirs{base: base}
	const mib = 1 << 20
	first, unlimited, err := d.create("pvc-1_shop_data", 4*mib)
	if err != nil || unlimited != "" {
		t.Fatalf("create: %v, unlimited: %s", err, unlimited)
	}
	second, _, err := d.create("pvc-2_shop_data", 4*mib)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := project(t, first), project(t, second); a == b || !ours(a) || !ours(b) {
		t.Fatalf("the volumes are projects %#x and %#x, want two of ours", a, b)
	}
	if again, _, err := d.create("pvc-1_shop_data", 4*mib); err != nil || again != first {
		t.Fatalf("create once more: %s %v", again, err)
	}

	// Full is full, in directories below too, and the file system is not.
	if err := os.Mkdir(filepath.Join(first, "sub"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := write(t, filepath.Join(first, "sub", "much"), 8*mib); err == nil || !strings.Contains(err.Error(), "Disk quota exceeded") && !strings.Contains(err.Error(), "No space left") {
		t.Fatalf("8 MiB in a volume of 4: %v", err)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(first, &s); err != nil || s.Blocks*uint64(s.Bsize) != 4*mib {
		t.Errorf("df says %d bytes, %v; want the volume's size", s.Blocks*uint64(s.Bsize), err)
	}
	if err := write(t, filepath.Join(second, "some"), 3*mib); err != nil {
		t.Errorf("the other volume is full, too: %v", err)
	}

	// More room.
	if unlimited, err := d.limit("pvc-1_shop_data", 16*mib); err != nil || unlimited != "" {
		t.Fatalf("grow: %v, unlimited: %s", err, unlimited)
	}
	if err := write(t, filepath.Join(first, "more"), 8*mib); err != nil {
		t.Errorf("8 MiB more in a volume that has grown: %v", err)
	}

	// The limit goes with the volume.
	was := project(t, first)
	if err := d.remove(t.Context(), "pvc-1_shop_data"); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(base)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// xfs lets go of removed files a moment later.
	for deadline := time.Now().Add(time.Minute); ; <-time.After(50 * time.Millisecond) {
		use, err := usage(f, was)
		if err != nil || use.Limit != 0 || use != (block{}) && time.Now().After(deadline) {
			t.Fatalf("the removed volume's project has %+v, %v", use, err)
		}
		if use == (block{}) {
			break
		}
	}
}

func project(t *testing.T, path string) uint32 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := projectOf(f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestUnenforcedSaysWhy(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	_, unlimited, err := (&dirs{base: dir}).create("pvc-1_shop_data", 4096)
	want := dir + " is on tmpfs, which has no project quotas; use a directory on ext4 or xfs that is mounted with prjquota"
	if err != nil || unlimited != want {
		t.Errorf("unlimited is %q, %v; want %q", unlimited, err, want)
	}
}
