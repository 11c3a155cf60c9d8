package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"skiff/pkg/preflight"
)

// freeShare is the part of a disk below which the kubelet evicts pods.
const freeShare = 0.05

func diskChecks() []check {
	return []check{
		{
			id: "data-dir", worst: Error, about: "whether the data directory can be used: read-only, noexec, a file in its way",
			why: "skiff does not start", look: lookDataDir,
		},
		{
			id: "data-dir-file-system", worst: Error, about: "what the data directory is on: a network, memory, an overlay, nosuid",
			why: "databases and image layers need a disk of this machine", look: lookFileSystem,
		},
		{
			id: "disk-space", worst: Error, about: "free room where the data directory, /var/lib/kubelet and /var/log/pods are",
			why: "below 5 % the kubelet evicts pods, below 128 MiB skiff does not start, and a full disk stops everything", look: lookSpace,
		},
		{
			id: "disk-inodes", worst: Error, about: "free inodes there",
			why: "image layers are many small files; without inodes nothing can be made on a disk that has room", look: lookInodes,
		},
		{
			id: "slow-fsync", worst: Warning, about: "how long a small write to the data directory's disk takes to be safe (at most 40 are measured, in half a second)",
			why: "every change of the cluster waits for one", look: lookFsync,
		},
	}
}

// places are the directories that fill up.
func (d *Doctor) places() []string {
	all := []string{d.Paths.Data}
	if d.Node {
		all = append(all, d.Paths.Kubelet(), d.Paths.PodLogs())
	}
	return all
}

// statfs asks about the file system that a directory is on or will be.
func (d *Doctor) statfs(dir string) (unix.Statfs_t, preflight.Mount, error) {
	var st unix.Statfs_t
	parent, err := preflight.ExistingParent(d.Path(dir))
	if err != nil {
		return st, preflight.Mount{}, err
	}
	if err := unix.Statfs(parent, &st); err != nil {
		return st, preflight.Mount{}, &fs.PathError{Op: "statfs", Path: parent, Err: err}
	}
	if d.Machine.Root != "" { // The mounts of a pretended machine are those it pretends.
		parent = dir
	}
	return st, d.MountOf(parent), nil
}

func lookDataDir(_ context.Context, x *exam) error {
	dir := x.Paths.Data
	st, m, err := x.statfs(dir)
	switch {
	case err != nil:
		x.found(Error, fmt.Sprintf("the data directory %s cannot be used: %v", dir, err), "remove what is in the way, or choose another --data-dir", nil)
		return nil
	case st.Flags&unix.ST_RDONLY != 0 || slices.Contains(m.Options, "ro"):
		x.found(Error, fmt.Sprintf("the data directory %s is read-only: %s on %s is mounted so", dir, m.Source, m.Point),
			fmt.Sprintf("mount -o remount,rw %s; if the kernel has done it, dmesg says why, and the disk may be failing", m.Point), nil)
	}
	if x.Node && (st.Flags&unix.ST_NOEXEC != 0 || slices.Contains(m.Options, "noexec")) {
		x.found(Error, fmt.Sprintf("the data directory %s is on %s, which is mounted noexec, so runc cannot be started from it", dir, m.Point),
			fmt.Sprintf("mount -o remount,exec %s, also in /etc/fstab, or choose another --data-dir", m.Point), nil)
	}
	return nil
}

func lookFileSystem(_ context.Context, x *exam) error {
	dir := x.Paths.Data
	_, m, err := x.statfs(dir)
	if err != nil {
		return nil //nolint:nilerr // data-dir has said so
	}
	where := fmt.Sprintf("the data directory %s is on %s (%s)", dir, m.Point, m.Type)
	const other = "choose a --data-dir on a disk of this machine, with ext4, xfs or btrfs"
	switch kind := m.Type; {
	case slices.Contains([]string{"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs", "afs"}, kind):
		x.found(Error, where+", a network file system", other+": its locks do not protect a database, and no image layer can be on it", nil)
	case slices.Contains([]string{"tmpfs", "ramfs"}, kind):
		x.found(Warning, where+", which is in memory: the cluster is gone after a reboot", other, nil)
	case slices.Contains([]string{"vfat", "exfat", "ntfs", "ntfs3", "fuseblk"}, kind):
		x.found(Error, where+", which has no permissions", other, nil)
	case kind == "overlay" && x.Node:
		severity, problem := Warning, where+": an overlay cannot be put on another, so image layers are copied whole"
		if x.Overlayfs {
			severity, problem = Error, where+": --snapshotter overlayfs cannot work on another overlay"
		}
		x.found(severity, problem, "mount a disk or a volume there, or expect images to take more room", nil)
	}
	if x.Node && slices.Contains(m.Options, "nosuid") && !slices.Contains([]string{"tmpfs", "ramfs"}, m.Type) {
		x.found(Info, where+", mounted nosuid: programs like sudo do not work in pods' local volumes", "nothing has to be done, unless a pod needs them: mount it without nosuid", nil)
	}
	return nil
}

// perDisk calls look once for each file system that the places are on.
func (x *exam) perDisk(look func(dir string, st unix.Statfs_t, m preflight.Mount)) {
	var seen []unix.Fsid
	for _, dir := range x.places() {
		st, m, err := x.statfs(dir)
		if err != nil || slices.Contains(seen, st.Fsid) {
			continue
		}
		seen = append(seen, st.Fsid)
		look(dir, st, m)
	}
}

func lookSpace(_ context.Context, x *exam) error {
	x.perDisk(func(dir string, st unix.Statfs_t, m preflight.Mount) {
		free, size := st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize)
		problem := fmt.Sprintf("%s on %s, which holds %s, has %d of %d MiB free", m.Source, m.Point, dir, free>>20, size>>20)
		const mend = "remove what is not needed: skiff crictl rmi --prune takes images that no container uses; journalctl --vacuum-size=100M, apt clean; du -xh shows where it is"
		switch {
		case free < preflight.MinDataFree:
			x.found(Error, problem, mend, nil)
		case float64(free) < freeShare*float64(size):
			x.found(Warning, problem, mend, nil)
		}
	})
	return nil
}

func lookInodes(_ context.Context, x *exam) error {
	x.perDisk(func(dir string, st unix.Statfs_t, m preflight.Mount) {
		problem := fmt.Sprintf("%s on %s, which holds %s, has %d of %d inodes free", m.Source, m.Point, dir, st.Ffree, st.Files)
		const mend = "remove small files: skiff crictl rmi --prune takes images that no container uses; du --inodes -x shows where they are"
		switch {
		case st.Files == 0: // btrfs has as many as it needs
		case st.Ffree < preflight.MinInodes:
			x.found(Error, problem, mend, nil)
		case float64(st.Ffree) < freeShare*float64(st.Files):
			x.found(Warning, problem, mend, nil)
		}
	})
	return nil
}

// How long a synced write may take until it is worth a word, and until it is
// slow: an SD card that is not worn out takes 5 to 30 ms.
const (
	fsyncNoted = 30 * time.Millisecond
	fsyncSlow  = 100 * time.Millisecond
)

// How much is measured.
const (
	fsyncRounds = 40
	fsyncBudget = 500 * time.Millisecond
	fsyncBytes  = 4096 // a page of the database
)

func lookFsync(ctx context.Context, x *exam) error {
	took, err := x.fsync(ctx)
	if err != nil {
		return err
	}
	slices.Sort(took)
	median, worst := took[len(took)/2], took[len(took)-1]
	x.measured(fmt.Sprintf("a synced write of %d KiB to %s, median of %d", fsyncBytes>>10, x.Paths.Data, len(took)), milliseconds(median), "ms")
	x.slow(median, worst)
	return nil
}

func (x *exam) slow(median, worst time.Duration) {
	severity := Info
	switch {
	case median < fsyncNoted:
		return
	case median >= fsyncSlow:
		severity = Warning
	}
	x.found(severity, fmt.Sprintf("a synced write to %s takes %.1f ms (median; the longest %.1f ms)", x.Paths.Data, milliseconds(median), milliseconds(worst)),
		"use a better disk: an SD card of class A2 or \"endurance\", an SSD on USB 3, not a cheap stick; --data-dir says where. "+
			"--datastore-durability balanced waits for fewer of them, and may lose the last seconds in a power cut", nil)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// fsync measures synced writes to a file without a name, of which nothing
// stays, not even after a power cut.
func (d *Doctor) fsync(ctx context.Context) ([]time.Duration, error) {
	dir, err := preflight.ExistingParent(d.Path(d.Paths.Data))
	if err != nil {
		return nil, err
	}
	f, err := unnamed(dir)
	if errors.Is(err, fs.ErrPermission) {
		return nil, errNotRoot
	}
	if err != nil {
		return nil, fmt.Errorf("measure how long a synced write takes: %w", err)
	}
	defer f.Close()
	page := []byte(strings.Repeat("skiff doctor ", fsyncBytes/13+1))[:fsyncBytes]
	var took []time.Duration
	for begin := time.Now(); len(took) < fsyncRounds && time.Since(begin) < fsyncBudget && ctx.Err() == nil; {
		start := time.Now()
		_, err := f.Write(page)
		if err == nil {
			err = unix.Fdatasync(int(f.Fd()))
		}
		if err != nil {
			return nil, fmt.Errorf("measure how long a synced write takes: %w", err)
		}
		took = append(took, time.Since(start))
	}
	if len(took) == 0 {
		return nil, context.Cause(ctx)
	}
	return took, nil
}

// unnamed opens a new file that has no name where the file system can do that,
// and takes its name away where not.
func unnamed(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_WRONLY|unix.O_TMPFILE, 0o600)
	if err == nil || errors.Is(err, fs.ErrPermission) {
		return f, err
	}
	f, err = os.CreateTemp(dir, ".skiff-doctor-*")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}
