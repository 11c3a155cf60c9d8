package vm

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func newTestDisk(t *testing.T, pages int) *Disk {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, bytes.Repeat([]byte{'.'}, pages*pageSize), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := NewDisk(image, filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.file.Close() })
	return d
}

func (d *Disk) write(t *testing.T, text string, off int64) {
	t.Helper()
	if _, err := d.WriteAt([]byte(text), off); err != nil {
		t.Fatal(err)
	}
}

func (d *Disk) read(t *testing.T, n int, off int64) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := d.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDiskReadsItsCache(t *testing.T) {
	d := newTestDisk(t, 2)
	d.write(t, "across", pageSize-3)
	if got, want := d.read(t, 8, pageSize-4), ".across."; got != want {
		t.Errorf("read %q, want %q", got, want)
	}
	if _, err := d.WriteAt([]byte("x"), 2*pageSize); err == nil {
		t.Error("a write beyond the end is no error")
	}
}

func TestDiskPowerCut(t *testing.T) {
	const pages = 200
	d := newTestDisk(t, pages)
	d.write(t, "flushed", 10)
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	for i := range int64(pages) {
		d.write(t, "cached", i*pageSize+100)
	}
	kept, lost, err := d.CutPower()
	if err != nil {
		t.Fatal(err)
	}
	if kept+lost != pages || kept == 0 || lost == 0 {
		t.Errorf("%d pages kept and %d lost of %d, want some of each", kept, lost, pages)
	}
	if got := d.read(t, 9, 9); got != ".flushed." {
		t.Errorf("what was flushed is now %q", got)
	}
	found := 0
	for i := range int64(pages) {
		switch got := d.read(t, 8, i*pageSize+99); got {
		case ".cached.":
			found++
		case "........":
		default:
			t.Errorf("page %d has %q: half a page was kept", i, got)
		}
	}
	if found != kept {
		t.Errorf("%d pages were written, want %d", found, kept)
	}
}
