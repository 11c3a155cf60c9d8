package hostchange

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"skiff/pkg/paths"
)

// listing is all that is below a directory: names, kinds, modes, contents.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %s", info.Mode(), strings.TrimPrefix(path, dir))
		if d.Type().IsRegular() {
			line += " " + read(t, path)
		}
		if target, err := os.Readlink(path); err == nil {
			line += " -> " + target
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// install makes a machine on which somebody had something before, and skiff
// has come. It returns what has to be there afterwards.
func install(t *testing.T, layout paths.Layout) (root, self string, before []string) {
	t.Helper()
	root = filepath.Dir(layout.Data)
	write(t, filepath.Join(root, "bin/tool"), "a user's")
	write(t, filepath.Join(root, "kubelet/theirs/file"), "of an older Kubernetes")
	write(t, filepath.Join(root, "precious"), "data")
	write(t, filepath.Join(root, "var/results/other-1"), "another network's")
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "units"), 0o755); err != nil {
		t.Fatal(err)
	}
	before = listing(t, root)
	self = filepath.Join(root, "bin/skiff")
	r := mustOpen(t, layout)
	kubelet, err := NewTree(Tree, filepath.Join(root, "kubelet"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := NewTree(Data, layout.Data)
	if err != nil {
		t.Fatal(err)
	}
	changes := []Change{
		{Kind: Dir, Value: layout.Etc}, {Kind: File, Value: self}, {Kind: Link, Value: filepath.Join(root, "bin/kubectl")},
		{Kind: Unit, Value: filepath.Join(root, "units/skiff.service")}, {Kind: Tree, Value: layout.Run}, data, kubelet,
		NewFile(filepath.Join(root, "bin/tool")), NewDir(filepath.Join(root, "var")),
		{Kind: Files, Value: filepath.Join(root, "var/results/cbr0-*")}, {Kind: File, Value: filepath.Join(layout.Etc, "skiff.yaml")},
		{Kind: Volumes, Value: filepath.Join(root, "disk/pvc-*_*")}, {Kind: Dir, Value: filepath.Join(root, "disk2")},
	}
	changes = append(changes, Change{Kind: Dir, Value: filepath.Join(root, "disk")})
	slices.Reverse(changes[len(changes)-3:])
	if err := r.Record(changes...); err != nil {
		t.Fatal(err)
	}
	write(t, self, "an executable")
	write(t, filepath.Join(layout.Etc, "skiff.yaml"), "kubeconfig")
	write(t, filepath.Join(root, "units/skiff.service"), "unit")
	write(t, filepath.Join(root, "kubelet/pods/1/volumes/x"), "")
	write(t, filepath.Join(root, "var/results/cbr0-1"), "")
	write(t, filepath.Join(root, "disk/pvc-1_a_b/file"), "")
	write(t, filepath.Join(layout.Run, "skiff.sock"), "")
	write(t, filepath.Join(layout.Data, "server/db/state.db"), "")
	for link, target := range map[string]string{
		filepath.Join(root, "bin/kubectl"):        "skiff",
		filepath.Join(layout.Data, "away"):        filepath.Join(root, "kubelet/theirs"),
		filepath.Join(layout.Data, "server/home"): filepath.Join(root, "precious"),
	} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	return root, self, before
}

func nothing(Change) bool { return false }

func noRun(_ context.Context, name string, args ...string) (string, error) {
	return "", fmt.Errorf("%s %v was run", name, args)
}

// TestUndo takes everything back, and ends it in between at each step.
func TestUndo(t *testing.T) {
	stopped := errors.New("killed")
	for at := 0; ; at++ {
		layout := machine(t)
		root, self, before := install(t, layout)
		steps := 0
		u := &Undo{Recorder: mustOpen(t, layout), Run: noRun, Self: self, Step: func(Change) error {
			if steps++; steps > at {
				return stopped
			}
			return nil
		}}
		err := errors.Join(u.Boot(t.Context(), layout.Run), u.Lasting(t.Context(), nothing))
		if err == nil {
			if at < 10 {
				t.Errorf("only %d steps", at)
			}
			if diff := cmp.Diff(before, listing(t, root)); diff != "" {
				t.Error(diff)
			}
			return
		}
		if !errors.Is(err, stopped) {
			t.Fatal(err)
		}
		// Another process goes on. All it has is what is on the disk.
		again := &Undo{Recorder: mustOpen(t, layout), Run: noRun, Self: self}
		if again.Recorder.Fresh() {
			if done, err := Finish(layout, self); err != nil || !done {
				t.Fatalf("at step %d: nothing says that there is something to finish: %v", at, err)
			}
		} else if err := errors.Join(again.Boot(t.Context(), layout.Run), again.Lasting(t.Context(), nothing)); err != nil {
			t.Fatalf("after an end at step %d: %v", at, err)
		}
		if diff := cmp.Diff(before, listing(t, root)); diff != "" {
			t.Errorf("after an end at step %d: %s", at, diff)
		}
	}
}

// TestKeep keeps some, and takes that back later.
func TestKeep(t *testing.T) {
	layout := machine(t)
	root, self, before := install(t, layout)
	keep := func(c Change) bool {
		return c.Kind == Data || c.Kind == Volumes || c.Value == filepath.Join(root, "disk")
	}
	u := &Undo{Recorder: mustOpen(t, layout), Run: noRun, Self: self}
	if err := u.Lasting(t.Context(), keep); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]bool{
		self: false, filepath.Join(layout.Etc, "skiff.yaml"): false, filepath.Join(root, "kubelet/pods"): false,
		filepath.Join(layout.Data, "server/db/state.db"): true, filepath.Join(root, "disk/pvc-1_a_b/file"): true, layout.HostChanges(): true,
	} {
		if _, err := os.Lstat(file); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", file, err == nil, want)
		}
	}
	u = &Undo{Recorder: mustOpen(t, layout), Run: noRun, Self: self}
	if err := u.Lasting(t.Context(), nothing); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, listing(t, root)); diff != "" {
		t.Error(diff)
	}
}

// TestNotOurs leaves alone what others have made in the meantime.
func TestNotOurs(t *testing.T) {
	layout := machine(t)
	root, self, _ := install(t, layout)
	write(t, filepath.Join(layout.Etc, "config.yaml"), "a person's")
	if err := os.Remove(filepath.Join(root, "bin/kubectl")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/opt/kubectl", filepath.Join(root, "bin/kubectl")); err != nil {
		t.Fatal(err)
	}
	var left []string
	u := &Undo{Recorder: mustOpen(t, layout), Run: noRun, Self: self, Left: func(what string) { left = append(left, what) }}
	if err := errors.Join(u.Boot(t.Context(), layout.Run), u.Lasting(t.Context(), nothing)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{filepath.Join(layout.Etc, "config.yaml")}, left); diff != "" {
		t.Error(diff)
	}
	for _, file := range []string{"bin/kubectl", "precious", "kubelet/theirs/file", "var/results/other-1", "bin/tool"} {
		if _, err := os.Lstat(filepath.Join(root, file)); err != nil {
			t.Error(err)
		}
	}
}

// TestMounted meets a mount in a tree, which nobody has announced.
func TestMounted(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	for _, kind := range []string{"tmpfs", "bind"} {
		t.Run(kind, func(t *testing.T) {
			layout := machine(t)
			root, self, _ := install(t, layout)
			point := filepath.Join(layout.Data, "storage/disk")
			if err := os.MkdirAll(point, 0o755); err != nil {
				t.Fatal(err)
			}
			var err error
			file := filepath.Join(point, "file")
			if kind == "tmpfs" {
				err = unix.Mount("tmpfs", point, "tmpfs", 0, "")
			} else {
				err = unix.Mount(filepath.Join(root, "kubelet/theirs"), point, "", unix.MS_BIND, "")
			}
			if err != nil {
				t.Skipf("mount: %v", err)
			}
			t.Cleanup(func() { _ = unix.Unmount(point, unix.MNT_DETACH) })
			if kind == "tmpfs" {
				write(t, file, "precious")
			}
			r := mustOpen(t, layout)
			mounts, err := Foreign(r.Lasting(), r.Fleeting())
			if err != nil || len(mounts) != 1 || !strings.HasPrefix(mounts[0], point+" ") {
				t.Errorf("foreign mounts %v, %v", mounts, err)
			}
			if mounts, err := Foreign(r.Lasting(), []Change{{Kind: Mounts, Value: filepath.Join(layout.Data, "storage")}}); err != nil || len(mounts) != 0 {
				t.Errorf("foreign mounts %v, %v, although they are ours", mounts, err)
			}
			u := &Undo{Recorder: r, Run: noRun, Self: self}
			if err := u.Lasting(t.Context(), nothing); !errors.Is(err, errMount) {
				t.Errorf("error %v", err)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("what is mounted has been removed: %v", err)
			}
			if err := unmountBelow(filepath.Join(layout.Data, "storage")); err != nil {
				t.Error(err)
			}
			if err := u.Lasting(t.Context(), nothing); err != nil {
				t.Error(err)
			}
			if kind == "bind" && read(t, filepath.Join(root, "kubelet/theirs/file")) == "" {
				t.Error("the other side of a bind mount has been emptied")
			}
		})
	}
}

func TestUnknownKind(t *testing.T) {
	layout := machine(t)
	r := mustOpen(t, layout)
	if err := r.lasting.record([]Change{{Kind: "firmware", Value: "x"}, {Kind: Dir, Value: "/nowhere/at/all"}}); err != nil {
		t.Fatal(err)
	}
	u := &Undo{Recorder: r, Run: noRun}
	if err := u.Lasting(t.Context(), nothing); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("error %v", err)
	}
	if mustOpen(t, layout).Fresh() {
		t.Error("the journal is gone, although not all has been undone")
	}
}
