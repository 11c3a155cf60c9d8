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

	"golang.org/x/sys/unix"
)

// quotaDisk mounts a file system that keeps project quotas, if this kernel can.
func quotaDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	image, mnt := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 64<<20), os.Mkdir(mnt, 0o700)); err != nil {
		t.Fatal(err)
	}
	mkfs := exec.Command("mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", image)
	if out, err := mkfs.CombinedOutput(); err != nil {
		t.Skipf("make ext4 with project quotas: %v: %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop,prjquota", image, mnt).CombinedOutput(); err != nil {
		t.Skipf("mount ext4 with project quotas; the kernel needs CONFIG_QFMT_V2 and a loop device: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := exec.Command("umount", mnt).Run(); err != nil {
			t.Error(err)
		}
	})
	return mnt
}

// write writes a file as a user without privileges: ext4 lets CAP_SYS_RESOURCE
// go beyond limits, which root has here and no container has by default.
func write(t *testing.T, path string, size int) error {
	t.Helper()
	cmd := exec.Command("sh", "-c", `exec cat >"$0"`, path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234}}
	cmd.Stdin = bytes.NewReader(make([]byte, size))
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.New(strings.TrimSpace(string(out)))
	}
	return nil
}

func TestQuota(t *testing.T) {
	base := filepath.Join(quotaDisk(t), "storage")
	d := &dirs{base: base}
	const mib = 1 << 20
	first, unlimited, err := d.create("pvc-1_shop_data", 4*mib)
	if err != nil || unlimited != "" {
		t.Fatalf("create: %v, unlimited: %s", err, unlimited)
	}
	if err := os.Chmod(base, 0o701); err != nil { // the writer passes here; a pod need not
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(base), 0o755); err != nil {
		t.Fatal(err)
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
	if err := os.Chmod(filepath.Join(first, "sub"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := write(t, filepath.Join(first, "sub", "much"), 8*mib); err == nil || !strings.Contains(err.Error(), "quota exceeded") {
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
	if use, err := usage(f, was); err != nil || use != (block{}) {
		t.Errorf("the removed volume's project has %+v, %v", use, err)
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
