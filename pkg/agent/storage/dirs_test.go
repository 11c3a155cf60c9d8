package storage

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDirsMakeAndRemove(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(outside, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(t.TempDir(), "a", "storage")
	d := &dirs{base: base}
	path, _, err := d.create("pvc-1_shop_data", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]os.FileMode{base: baseMode, path: volumeMode} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != want {
			t.Errorf("mode of %s is %v, %v; want %v", dir, info.Mode(), err, want)
		}
	}
	// What a pod may leave behind.
	if err := os.MkdirAll(filepath.Join(path, "sub", "closed"), 0o000); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{"file", "sub/file"} {
		if err := os.Symlink(outside, filepath.Join(path, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(path, "dir")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second has nothing to do
		if err := d.remove(t.Context(), "pvc-1_shop_data"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the volume is still there: %v", err)
	}
	if got, err := os.ReadFile(outside); err != nil || string(got) != "data" {
		t.Errorf("the file outside is %q, %v", got, err)
	}

	// A link in the volume's place is removed, and what it points to is not.
	if err := os.Symlink(filepath.Dir(outside), path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.create("pvc-1_shop_data", 1<<20); err == nil {
		t.Error("a symbolic link was taken for the volume's directory")
	}
	if err := d.remove(t.Context(), "pvc-1_shop_data"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
}

func TestRemoveFromMissingBase(t *testing.T) {
	d := &dirs{base: filepath.Join(t.TempDir(), "unmounted")}
	if err := d.remove(t.Context(), "pvc-1_shop_data"); err == nil {
		t.Error("without the base, a volume counts as removed")
	}
}

func TestDirOfVolume(t *testing.T) {
	d := &dirs{base: "/disk/storage"}
	for path, want := range map[string]string{
		"/disk/storage/pvc-1_shop_data":    "pvc-1_shop_data",
		"/disk/storage/pvc-1_shop_data/":   "pvc-1_shop_data",
		"/disk/storage/./pvc-1_shop_data":  "pvc-1_shop_data",
		"/disk/storage/pvc-2_shop_data":    "",
		"/disk/storage":                    "",
		"/disk/storage/":                   "",
		"/disk/storage/..":                 "",
		"/disk/storage/../etc":             "",
		"/disk/storage/pvc-1_shop_data/..": "",
		"/disk/storage/pvc-1_x/etc":        "",
		"/etc":                             "",
		"/etc/pvc-1_shop_data":             "",
		"pvc-1_shop_data":                  "",
		"":                                 "",
	} {
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-1"}}
		v.Spec.Local = &corev1.LocalVolumeSource{Path: path}
		if got, err := d.name(v); got != want || (err == nil) != (want != "") {
			t.Errorf("name of %q: %q, %v; want %q", path, got, err, want)
		}
	}
	if _, err := d.name(&corev1.PersistentVolume{}); err == nil {
		t.Error("a volume that is not local has a directory")
	}
}

func TestDirNameFits(t *testing.T) {
	got := dirName("pvc-2b0f2c05-0d6f-4b38-9d0e-3c2f6a3f3c11", strings.Repeat("n", 63), strings.Repeat("c", 253))
	if len(got) != nameLimit || !strings.HasPrefix(got, "pvc-2b0f2c05-0d6f-4b38-9d0e-3c2f6a3f3c11_nnn") {
		t.Errorf("%d bytes: %s", len(got), got)
	}
}
