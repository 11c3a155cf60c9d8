package kubelet

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseOptions(t *testing.T) {
	tests := []struct {
		options []string
		bits    uintptr
		data    string
	}{
		{nil, 0, ""},
		{[]string{"defaults"}, 0, ""},
		{[]string{"size=64Mi", "noswap"}, 0, "size=64Mi,noswap"},
		{[]string{"bind", "ro"}, unix.MS_BIND | unix.MS_RDONLY, ""},
		{[]string{"ro", "rw", "nosuid"}, unix.MS_NOSUID, ""},
		{[]string{"rbind"}, unix.MS_BIND | unix.MS_REC, ""},
	}
	for _, tt := range tests {
		if bits, data := parseOptions(tt.options); bits != tt.bits || data != tt.data {
			t.Errorf("parseOptions(%q) = %#x, %q; want %#x, %q", tt.options, bits, data, tt.bits, tt.data)
		}
	}
}

// The kubelet's own cases: a small tmpfs, and a directory bound read-only.
func TestMounter(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	dir := t.TempDir()
	done := make(chan struct{})
	go func() { // on a thread with mounts of its own, which ends with it
		defer close(done)
		runtime.LockOSThread()
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
			t.Errorf("make mounts of our own: %v", err)
			return
		}
		checkMounter(t, &mounter{}, dir)
	}()
	<-done
}

func checkMounter(t *testing.T, m *mounter, dir string) {
	secret, bound := filepath.Join(dir, "secret"), filepath.Join(dir, "bound")
	if err := errors.Join(os.Mkdir(secret, 0o755), os.Mkdir(bound, 0o755)); err != nil {
		t.Error(err)
		return
	}
	if err := m.MountSensitive("tmpfs", secret, "tmpfs", []string{"size=65536"}, []string{"mode=0700"}); err != nil {
		t.Error(err)
		return
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(secret, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || int64(fs.Blocks)*fs.Bsize != 65536 {
		t.Errorf("the tmpfs is of type %#x with %d blocks: %v", fs.Type, fs.Blocks, err)
	}
	if err := os.WriteFile(filepath.Join(secret, "token"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	if err := m.Mount(secret, bound, "", []string{"bind", "ro"}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(bound, "token")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(bound, "other"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to what is bound read-only: %v, want EROFS", err)
	}
	for _, target := range []string{bound, secret, secret} { // the last is not mounted any more
		if err := m.Unmount(target); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(secret, "token")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Unmount: %v", err)
	}
	if err := m.Unmount(filepath.Join(dir, "nothing")); err == nil {
		t.Error("Unmount of what does not exist succeeded")
	}
	if err := m.Mount("nosuch", secret, "nosuchfs", nil); err == nil {
		t.Error("Mount of an unknown file system succeeded")
	}
}
