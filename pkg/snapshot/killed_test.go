package snapshot_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/datastore/repair"
	"skiff/pkg/paths"
	"skiff/pkg/snapshot"
)

// restoreVar makes the test's executable a process that restores an archive to
// a machine, and can be killed.
const restoreVar = "SNAPSHOT_TEST_RESTORE"

func TestMain(m *testing.M) {
	root := os.Getenv(restoreVar)
	if root == "" {
		os.Exit(m.Run())
	}
	if _, err := snapshot.Restore(context.Background(), machineIn(root).target(), os.Getenv(restoreVar+"_ARCHIVE"), time.Now()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func machineIn(root string) machine {
	return machine{paths.Layout{Data: filepath.Join(root, "data"), Etc: filepath.Join(root, "etc"), Run: filepath.Join(root, "run")}}
}

// TestRestoreKilled kills restores at any moment: what the next start of skiff
// finds is the old state or the new one, never a mixture.
func TestRestoreKilled(t *testing.T) {
	origin := newMachine(t)
	origin.furnish(t)
	put(t, origin.Token(), "restored\n")
	s := origin.run(t)
	s.create("/registry/k1", "restored")
	archive := origin.save(t, snapshot.OnDemand).Path
	s.stop()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	count := make(map[string]int)
	m := machineIn(t.TempDir())
	whole := time.Minute // what a restore takes that nobody kills: the first one tells
	for round := range uint64(40) {
		if round == 0 || mustRead(t, m.Token()) == "restored\n" {
			for _, dir := range []string{m.Data, m.Etc} {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			}
			m.furnish(t)
			put(t, m.Token(), "old\n")
			old := m.run(t)
			old.create("/registry/k1", "old")
			old.stop()
		}
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), restoreVar+"="+filepath.Dir(m.Data), restoreVar+"_ARCHIVE="+archive)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		begin, delay := time.Now(), whole
		if round > 0 {
			delay = time.Duration(rand.New(rand.NewPCG(round, 0)).Int64N(int64(2 * whole)))
		}
		timer := time.AfterFunc(delay, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // It was killed, or had finished before.
		if timer.Stop(); round == 0 {
			whole = time.Since(begin)
		}

		if err := snapshot.Finish(m.Layout); err != nil {
			t.Fatal(err)
		}
		token := mustRead(t, m.Token())
		count[token]++
		if err := repair.Check(t.Context(), m.database()); err != nil {
			t.Fatal(err)
		}
		run := m.run(t)
		if diff := cmp.Diff([]string{"/registry/k1=" + token[:len(token)-1]}, run.keys()); diff != "" {
			t.Errorf("round %d: the token is %q, the keys (-want +got):\n%s", round, token, diff)
		}
		run.stop()
	}
	t.Logf("found %v", count)
	if count["old\n"] == 0 || count["restored\n"] == 0 {
		t.Errorf("found %v, want both some of the time: the moments are badly chosen", count)
	}
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
