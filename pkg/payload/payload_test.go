package payload

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// carried is what the test executables carry.
func carried() fstest.MapFS {
	return fstest.MapFS{
		"nft":           {Data: []byte("launcher")},
		"nft.d/ld.so":   {Data: bytes.Repeat([]byte("loader "), 10_000)},
		"nft.d/nft":     {Data: []byte("program")},
		"runc":          {Data: bytes.Repeat([]byte{0, 1, 2, 3}, 100_000)},
		"licenses/libc": {Data: []byte("copyright")},
	}
}

// pack makes an executable that carries files and opens its payload.
func pack(t *testing.T, files fstest.MapFS) *Payload {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, strings.NewReader("\x7fELF the executable"), files); err != nil {
		t.Fatal(err)
	}
	return open(t, b.Bytes())
}

func open(t *testing.T, executable []byte) *Payload {
	t.Helper()
	name := filepath.Join(t.TempDir(), "skiff")
	if err := os.WriteFile(name, executable, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// tree reads what lies in dir, by path; the mode must be that of executables.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		if info.Mode() != staged {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), staged)
		}
		rel, err := filepath.Rel(dir, name)
		got[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestNames(t *testing.T) {
	got := pack(t, carried()).Names()
	if diff := cmp.Diff([]string{"nft", "runc"}, got); diff != "" {
		t.Errorf("Names() (-want +got):\n%s", diff)
	}
}

func TestWriteIsReproducible(t *testing.T) {
	var runs [2]bytes.Buffer
	for i := range runs {
		files := carried()
		for _, f := range files {
			f.ModTime, f.Mode = time.Unix(int64(i), 0), os.FileMode(0o600+i)
		}
		must(t, Write(&runs[i], strings.NewReader("executable"), files))
	}
	if !bytes.Equal(runs[0].Bytes(), runs[1].Bytes()) {
		t.Error("files that differ only in time and mode give other bytes")
	}
}

func TestStage(t *testing.T) {
	files := carried()
	text := func(names ...string) map[string]string {
		want := map[string]string{}
		for _, n := range names {
			want[n] = string(files[n].Data)
		}
		return want
	}
	tests := []struct {
		name  string
		names []string
		want  map[string]string
	}{
		{"one", []string{"runc"}, text("runc")},
		{"with companions", []string{"nft"}, text("nft", "nft.d/ld.so", "nft.d/nft")},
		{"all", []string{"nft", "runc"}, text("nft", "nft.d/ld.so", "nft.d/nft", "runc")},
		{"none", nil, map[string]string{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "made", "bin")
			if err := pack(t, files).Stage(dir, tt.names...); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, tree(t, dir)); diff != "" {
				t.Errorf("staged (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStageUnknownName(t *testing.T) {
	for _, name := range []string{"crun", "nft.d/nft", "licenses/libc", ""} {
		if err := pack(t, carried()).Stage(t.TempDir(), name); err == nil {
			t.Errorf("Stage(%q) succeeded", name)
		}
	}
}

func TestStageMends(t *testing.T) {
	whole := carried()["runc"].Data
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	tests := []struct {
		name   string
		damage func(t *testing.T, file string)
	}{
		{"truncated", func(t *testing.T, file string) { must(t, os.Truncate(file, 10)) }},
		{"empty", func(t *testing.T, file string) { must(t, os.Truncate(file, 0)) }},
		{"one bit, same size", func(t *testing.T, file string) { must(t, os.WriteFile(file, flipped, 0o755)) }},
		{"not executable", func(t *testing.T, file string) { must(t, os.Chmod(file, 0o644)) }},
		{"setuid", func(t *testing.T, file string) { must(t, os.Chmod(file, 0o755|os.ModeSetuid)) }},
		{"removed", func(t *testing.T, file string) { must(t, os.Remove(file)) }},
		{"a link to an equal file", func(t *testing.T, file string) {
			must(t, os.Rename(file, file+".real"))
			must(t, os.Symlink(file+".real", file))
		}},
		{"killed while staging", func(t *testing.T, file string) {
			must(t, os.Remove(file))
			must(t, os.WriteFile(filepath.Join(filepath.Dir(file), ".runc.tmp"), []byte("half"), 0o600))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, p := t.TempDir(), pack(t, carried())
			file := filepath.Join(dir, "runc")
			must(t, p.Stage(dir, "runc"))
			tt.damage(t, file)
			must(t, p.Stage(dir, "runc"))
			info, err := os.Lstat(file)
			must(t, err)
			got, err := os.ReadFile(file)
			must(t, err)
			if info.Mode() != staged || !bytes.Equal(got, whole) {
				t.Errorf("after Stage: mode %v, %d bytes, equal %v", info.Mode(), len(got), bytes.Equal(got, whole))
			}
			if left, _ := filepath.Glob(filepath.Join(dir, ".*.tmp")); len(left) > 0 {
				t.Errorf("temporary files left: %v", left)
			}
		})
	}
}

// A running executable keeps its file: replaced by rename, and left alone
// when nothing changed.
func TestStageReplacesByRename(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "runc")
	must(t, pack(t, carried()).Stage(dir, "runc"))
	before, err := os.Stat(file)
	must(t, err)
	must(t, pack(t, carried()).Stage(dir, "runc"))
	same, err := os.Stat(file)
	must(t, err)
	if !os.SameFile(before, same) || !same.ModTime().Equal(before.ModTime()) {
		t.Error("an identical file was written again")
	}

	running, err := os.Open(file)
	must(t, err)
	defer running.Close()
	next := carried()
	next["runc"].Data = []byte("the next version")
	must(t, pack(t, next).Stage(dir, "runc"))
	old := make([]byte, 4)
	if _, err := running.ReadAt(old, 0); err != nil || !bytes.Equal(old, carried()["runc"].Data[:4]) {
		t.Errorf("the open file changed: %q, %v", old, err)
	}
	if got := tree(t, dir)["runc"]; got != "the next version" {
		t.Errorf("runc is %q", got)
	}
}

func TestStageDamagedExecutable(t *testing.T) {
	var b bytes.Buffer
	must(t, Write(&b, strings.NewReader("executable"), fstest.MapFS{"runc": {Data: []byte(strings.Repeat("abcdefgh", 64))}}))
	raw := b.Bytes()
	at := len("executable") + 30 + len("runc") + 12 // inside the compressed data
	raw[at] ^= 0xff
	dir := t.TempDir()
	if err := open(t, raw).Stage(dir, "runc"); err == nil {
		t.Error("a damaged payload was staged")
	}
	if diff := cmp.Diff(map[string]string{}, tree(t, dir)); diff != "" {
		t.Errorf("left behind (-want +got):\n%s", diff)
	}
}

func TestStageWithoutPayload(t *testing.T) {
	tools, dir := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(tools, "runc"), []byte("host's"), 0o755))
	must(t, os.WriteFile(filepath.Join(tools, "nft"), []byte("not executable"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "pause"), []byte("there already"), 0o755))
	t.Setenv("PATH", "relative:"+tools)
	p := open(t, []byte("\x7fELF without a ZIP"))
	if p.Names() != nil {
		t.Errorf("Names() = %v, want none", p.Names())
	}

	must(t, p.Stage(dir, "runc", "pause"))
	must(t, p.Stage(dir, "runc", "pause"))
	want := map[string]string{"runc": "host's", "pause": "there already"}
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Errorf("staged (-want +got):\n%s", diff)
	}

	err := p.Stage(dir, "nft", "bridge")
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "nft") || !strings.Contains(err.Error(), "bridge") {
		t.Errorf("Stage of missing tools: %v", err)
	}

	// An executable with payload takes over what a bare one linked.
	must(t, pack(t, carried()).Stage(dir, "runc"))
	if got := tree(t, dir)["runc"]; got != string(carried()["runc"].Data) {
		t.Errorf("runc is still the host's: %q", got)
	}
	if host, err := os.ReadFile(filepath.Join(tools, "runc")); err != nil || string(host) != "host's" {
		t.Errorf("the host's runc was touched: %q, %v", host, err)
	}
}

func TestOpenSelf(t *testing.T) {
	p, err := Open() // a test binary carries nothing
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Names() != nil {
		t.Errorf("Names() = %v, want none", p.Names())
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
