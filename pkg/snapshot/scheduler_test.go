package snapshot_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"skiff/pkg/snapshot"
	"skiff/pkg/status"
)

// atRest is a machine with a server that does not run.
func atRest(t *testing.T) machine {
	t.Helper()
	m := newMachine(t)
	m.furnish(t)
	s := m.run(t)
	s.create("/registry/k1", "1")
	s.stop()
	return m
}

func times(t *testing.T, dir, kind string) []string {
	t.Helper()
	list, err := snapshot.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range list {
		if i.Kind == kind {
			got = append(got, i.Time.Format(time.DateTime))
		}
	}
	return got
}

func TestScheduler(t *testing.T) {
	m := atRest(t)
	run := func(t *testing.T, d time.Duration) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		s := &snapshot.Scheduler{Source: m.source(), Dir: m.Snapshots(), Interval: 12 * time.Hour, Keep: 3, Notes: &status.NoteBook{}, Logger: slog.New(slog.DiscardHandler)}
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(d)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		run(t, 4*time.Minute)
		if got := times(t, m.Snapshots(), snapshot.Scheduled); len(got) > 0 {
			t.Errorf("a snapshot right at the start: %v", got)
		}
		run(t, 50*time.Hour) // begins at 0:04
		want := []string{"2000-01-03 00:09:00", "2000-01-02 12:09:00", "2000-01-02 00:09:00"}
		if diff := cmp.Diff(want, times(t, m.Snapshots(), snapshot.Scheduled)); diff != "" {
			t.Errorf("after 50 hours (-want +got):\n%s", diff)
		}
		run(t, 8*time.Hour) // a restart at 2:04 does not change the rhythm
		if diff := cmp.Diff(want, times(t, m.Snapshots(), snapshot.Scheduled)); diff != "" {
			t.Errorf("a restart made a snapshot that is not due (-want +got):\n%s", diff)
		}
	})
}

func TestSchedulerReportsFailure(t *testing.T) {
	m := atRest(t)
	missing := m.source()
	missing.Database += ".gone"
	synctest.Test(t, func(t *testing.T) {
		notes := &status.NoteBook{}
		ctx, cancel := context.WithCancel(t.Context())
		s := &snapshot.Scheduler{Source: missing, Dir: m.Snapshots(), Interval: time.Hour, Keep: 3, Notes: notes, Logger: slog.New(slog.DiscardHandler)}
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if list := notes.List(); len(list) != 1 || !strings.Contains(list[0].Message, "the last snapshot failed") {
			t.Errorf("notes: %+v", list)
		}
	})
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, name := range []string{
		"scheduled-n-20261121T110000Z", "scheduled-n-20261120T110000Z", "scheduled-n-20261119T110000Z",
		"scheduled-n-20361119T110000Z", "on-demand-n-20200101T000000Z", "pre-upgrade-v1+a-n-20200101T000000Z",
	} {
		put(t, filepath.Join(dir, name+".tar.zst"), "x")
	}
	removed, err := snapshot.Prune(dir, snapshot.Scheduled, 2, now)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"scheduled-n-20261119T110000Z.tar.zst", "scheduled-n-20361119T110000Z.tar.zst"}
	if diff := cmp.Diff(want, removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
}

func TestBeforeUpgrade(t *testing.T) {
	m := atRest(t)
	before := func(version string) {
		t.Helper()
		src := m.source()
		src.Version = version
		if err := snapshot.BeforeUpgrade(t.Context(), src, m.Snapshots(), discard{}, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	count := func(want int) {
		t.Helper()
		if got := times(t, m.Snapshots(), snapshot.PreUpgrade); len(got) != want {
			t.Errorf("%d snapshots from before an upgrade, want %d", len(got), want)
		}
	}
	put(t, m.ServerVersion(), "v1+skiff1\n")
	before("v1+skiff1")
	count(0)
	before("v2")
	count(1)
	before("v2")
	count(1)
	list, err := snapshot.List(m.Snapshots())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(list[0].Name, "pre-upgrade-v1+skiff1-n1.example-") || list[0].Version != "v1+skiff1" {
		t.Errorf("got %+v, want one that names the version before", list[0])
	}
	for _, v := range []string{"v3", "v4", "v5"} {
		before(v)
	}
	count(3)

	fresh := newMachine(t)
	if err := snapshot.BeforeUpgrade(t.Context(), fresh.source(), fresh.Snapshots(), discard{}, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, map[string]string{fresh.ServerVersion(): "v1\n"})
}

// TestFullDisk needs root, for a small file system of its own.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	m := atRest(t)
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	good, err := snapshot.Save(t.Context(), m.source(), small, snapshot.Scheduled)
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(small, "ballast"), strings.Repeat("x", 980<<10))
	_, err = snapshot.Save(t.Context(), m.source(), small, snapshot.Scheduled)
	space, ok := errors.AsType[*snapshot.SpaceError](err)
	if !ok || space.Dir != small {
		t.Errorf("got %v, want that the disk of %s is nearly full", err, small)
	}
	if _, err := snapshot.Verify(t.Context(), good.Path); err != nil {
		t.Errorf("the last good snapshot: %v", err)
	}
}

// TestFinish is a power cut between the two steps of a restore on a file
// system that cannot exchange directories.
func TestFinish(t *testing.T) {
	m := atRest(t)
	if err := os.Rename(m.Server(), m.ServerRestored()); err != nil {
		t.Fatal(err)
	}
	if err := snapshot.Finish(m.Layout); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, map[string]string{m.Token(): "secret\n"})
	if err := snapshot.Finish(m.Layout); err != nil {
		t.Errorf("with nothing to do: %v", err)
	}
}
