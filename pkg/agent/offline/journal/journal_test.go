package journal

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T, path, secret string) (*Journal, []string, Replayed) {
	t.Helper()
	var got []string
	j, found, err := Open(path, []byte(secret), func(c []byte, _ Place) { got = append(got, string(c)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j, got, found
}

func add(t *testing.T, j *Journal, contents ...string) []Place {
	t.Helper()
	var at []Place
	for _, c := range contents {
		p, err := j.Append([]byte(c))
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, p)
	}
	if err := j.Commit(); err != nil {
		t.Fatal(err)
	}
	return at
}

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	j, _, _ := open(t, path, "k")
	at := add(t, j, "secret-one", "two")
	big := bytes.Repeat([]byte("x"), writeAt+1)
	at = append(at, add(t, j, string(big))...)
	if _, err := j.Append([]byte("never committed")); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"secret-one", "two", string(big)} {
		if got, err := j.Read(at[i]); err != nil || string(got) != want {
			t.Errorf("record %d: %v", i, err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("secret-one")) {
		t.Error("the file can be read by anybody")
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	_, got, found := open(t, path, "k")
	if diff := cmp.Diff([]string{"secret-one", "two", string(big)}, got); diff != "" || found.Torn || found.Damaged > 0 {
		t.Errorf("%+v", found)
	}
}

// TestCut: whatever part of the file a power cut leaves, what was committed
// within it is there and nothing else, and the journal can go on.
func TestCut(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	j, _, _ := open(t, whole, "k")
	ends := []int64{j.Size()}
	var want []string
	for i := range 5 {
		text := "record " + strconv.Itoa(i)
		add(t, j, text, text+" again")
		want = append(want, text, text+" again")
		ends = append(ends, j.Size())
	}
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "cut")
	for n := range int64(len(data)) {
		committed := 0
		for i, e := range ends {
			if n >= e {
				committed = 2 * i
			}
		}
		// A file may also have grown before its content came: zeros.
		for _, tail := range []int{0, 100} {
			if err := os.WriteFile(path, append(bytes.Clone(data[:n]), make([]byte, tail)...), 0o600); err != nil {
				t.Fatal(err)
			}
			j, got, _ := open(t, path, "k")
			if diff := cmp.Diff(want[:committed], got); diff != "" && committed > 0 {
				t.Fatalf("cut at %d: -want +got\n%s", n, diff)
			}
			add(t, j, "after")
			_ = j.Close()
			j, got, found := open(t, path, "k")
			if len(got) != committed+1 || got[committed] != "after" || found.Torn {
				t.Fatalf("cut at %d: %v, %+v", n, got, found)
			}
			_ = j.Close()
		}
	}
}

func TestDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	j, _, _ := open(t, path, "k")
	at := add(t, j, "one", "two", "three")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[at[1].Offset+14] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	_, got, found := open(t, path, "k")
	if diff := cmp.Diff([]string{"one", "three"}, got); diff != "" || found.Damaged != 1 {
		t.Errorf("%+v -want +got\n%s", found, diff)
	}
}

func TestOtherKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	j, _, _ := open(t, path, "k")
	add(t, j, "one")
	j, got, found := open(t, path, "another")
	if len(got) > 0 || !found.Foreign {
		t.Errorf("%v, %+v", got, found)
	}
	add(t, j, "two")
	if _, got, _ = open(t, path, "another"); len(got) != 1 {
		t.Errorf("%v", got)
	}
}

func TestRewrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	j, _, _ := open(t, path, "k")
	at := add(t, j, "one", "two", "three")
	before := j.Size()
	if err := j.Rewrite(func(next *Journal) error {
		keep, err := j.Read(at[1])
		if err != nil {
			return err
		}
		_, err = next.Append(keep)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if j.Size() >= before {
		t.Errorf("%d bytes, before %d", j.Size(), before)
	}
	add(t, j, "four")
	if _, got, _ := open(t, path, "k"); !cmp.Equal([]string{"two", "four"}, got) {
		t.Errorf("%v", got)
	}
}

func TestRollback(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	j, _, _ := open(t, path, "k")
	add(t, j, "one")
	if _, err := j.Append(bytes.Repeat([]byte("y"), writeAt)); err != nil {
		t.Fatal(err)
	}
	if err := j.Rollback(); err != nil {
		t.Fatal(err)
	}
	add(t, j, "two")
	if _, got, _ := open(t, path, "k"); !cmp.Equal([]string{"one", "two"}, got) {
		t.Errorf("%v", got)
	}
}

// FuzzOpen: whatever is on the disk, Open returns a journal that works.
func FuzzOpen(f *testing.F) {
	dir := f.TempDir()
	seed := filepath.Join(dir, "seed")
	j, _, err := Open(seed, []byte("k"), func([]byte, Place) {})
	if err != nil {
		f.Fatal(err)
	}
	_, _ = j.Append([]byte("hello"))
	_ = j.Commit()
	data, _ := os.ReadFile(seed)
	f.Add(data)
	f.Add(data[:len(data)-3])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		j, _, _ := open(t, path, "k")
		add(t, j, "after")
		_ = j.Close()
		if _, got, _ := open(t, path, "k"); len(got) == 0 || got[len(got)-1] != "after" {
			t.Errorf("%v", got)
		}
	})
}
