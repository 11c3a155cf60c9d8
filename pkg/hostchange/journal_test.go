package hostchange

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/paths"
)

// machine is a layout of its own.
func machine(t *testing.T) paths.Layout {
	t.Helper()
	dir := t.TempDir()
	return paths.Layout{Data: filepath.Join(dir, "data"), Etc: filepath.Join(dir, "etc/skiff"), Run: filepath.Join(dir, "run/skiff")}
}

func mustOpen(t *testing.T, layout paths.Layout) *Recorder {
	t.Helper()
	r, err := Open(layout)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestRecord(t *testing.T) {
	layout := machine(t)
	odd := Change{File, "/a\tb\nc\\d", "was\\t here"}
	tree := Change{Kind: Tree, Value: "/var/lib/x"}
	forward := Change{Sysctl, "net.ipv4.ip_forward=1", "0"}
	if err := mustOpen(t, layout).Record(odd, forward, tree, odd); err != nil {
		t.Fatal(err)
	}
	r := mustOpen(t, layout)
	if diff := cmp.Diff([]Change{odd, tree}, r.Lasting()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]Change{forward}, r.Fleeting()); diff != "" {
		t.Error(diff)
	}

	// What is known is not written again, however it is now.
	before := read(t, layout.HostChanges()) + read(t, layout.HostChangesOfBoot())
	tree.Before = "/now/there"
	if err := r.Record(tree, odd, Change{Sysctl, "net.ipv4.ip_forward=2", "1"}); err != nil {
		t.Fatal(err)
	}
	if now := read(t, layout.HostChanges()) + read(t, layout.HostChangesOfBoot()); now != before {
		t.Errorf("the journals are\n%s\nand were\n%s", now, before)
	}
	if !r.Knows(Tree, "/var/lib/x") || r.Knows(Tree, "/var/lib/y") || !r.Knows(Sysctl, "net.ipv4.ip_forward=0") {
		t.Error("the recorder does not know what it knows")
	}
}

func TestTornJournal(t *testing.T) {
	tests := []struct {
		name, text string
		want       []Change
	}{
		{"whole", "file\t/a\nlink\t/b\n", []Change{{File, "/a", ""}, {Link, "/b", ""}}},
		{"cut off", "file\t/a\nlink\t/b", []Change{{File, "/a", ""}}},
		{"cut off in a kind", "file\t/a\nli", []Change{{File, "/a", ""}}},
		{"nothing but a piece", "fi", nil},
		{"zeros, as some file systems leave", "file\t/a\n\x00\x00\x00\x00", []Change{{File, "/a", ""}}},
		{"zeros with an end", "file\t/a\n\x00\x00\nlink\t/b\n", []Change{{File, "/a", ""}, {Link, "/b", ""}}},
		{"what makes no sense", "\n\t\nfile\nfile\t\nfile\t/a\tb\tc\nfile\t/b\n", []Change{{File, "/b", ""}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			layout := machine(t)
			if err := os.MkdirAll(layout.Etc, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(layout.HostChanges(), []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			r := mustOpen(t, layout)
			if diff := cmp.Diff(tt.want, r.Lasting()); diff != "" {
				t.Error(diff)
			}
			// What comes next is whole.
			added := Change{Kind: Dir, Value: "/added"}
			if err := r.Record(added); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(append(tt.want, added), mustOpen(t, layout).Lasting()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestJournalOfAnotherBoot(t *testing.T) {
	layout := machine(t)
	old := Change{Sysctl, "net.ipv4.ip_forward=1", "0"}
	if err := mustOpen(t, layout).Record(old); err != nil {
		t.Fatal(err)
	}
	text := read(t, layout.HostChangesOfBoot())
	boot, rest, _ := strings.Cut(text, "\n")
	if !strings.HasPrefix(boot, "boot\t") {
		t.Fatalf("the journal begins with %q", boot)
	}
	for _, other := range []string{"boot\tanother\n" + rest, rest, "", "boot"} {
		if err := os.WriteFile(layout.HostChangesOfBoot(), []byte(other), 0o600); err != nil {
			t.Fatal(err)
		}
		r := mustOpen(t, layout)
		if got := r.Fleeting(); len(got) != 0 {
			t.Errorf("of %q: %v", other, got)
		}
		fresh := Change{Kind: Interface, Value: "cni0"}
		if err := r.Record(fresh); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]Change{fresh}, mustOpen(t, layout).Fleeting()); diff != "" {
			t.Error(diff)
		}
	}
}

func TestHugeJournal(t *testing.T) {
	layout := machine(t)
	if err := os.MkdirAll(layout.Etc, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(layout.HostChanges(), make([]byte, limit+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(layout); err == nil || !strings.Contains(err.Error(), layout.HostChanges()) {
		t.Errorf("error %v", err)
	}
}

func TestNoRecorder(t *testing.T) {
	var r *Recorder
	if err := r.Record(Change{Kind: File, Value: "/a"}); err != nil {
		t.Error(err)
	}
}
