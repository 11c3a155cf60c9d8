package storage

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Every limited volume is a project of its own, numbered in this range. The
// number is kept in the directory's inode and nowhere else.
const (
	firstProject = 0x736b0000
	projects     = 1 << 16
)

// limit makes size the most that a directory and all below it may hold. A
// directory without a project gets one if fresh is true; on one with data that
// would count only what is written later. If unlimited is not empty it says why
// there is no limit, and what to do about it.
func limit(dir *os.File, fresh bool, size int64) (unlimited string, err error) {
	if unlimited, err = unenforced(dir); unlimited != "" || err != nil {
		return unlimited, err
	}
	project, err := projectOf(dir)
	if err != nil {
		return "", err
	}
	switch {
	case ours(project):
	case !fresh:
		return "the volume was made while there were no project quotas; move the data to a new one to have a limit", nil
	default:
		if project, err = freeProject(dir); err != nil {
			return "", err
		}
		if err := setProject(dir, project); err != nil {
			return "", err
		}
	}
	return "", setLimit(dir, project, size)
}

// release forgets the limit of a project whose directory is gone, which may be
// dir. A file that somebody still holds open stays counted until it is closed.
func release(dir *os.File, project uint32) error {
	if !ours(project) {
		return nil
	}
	return setLimit(dir, project, 0)
}

func ours(project uint32) bool { return project >= firstProject && project-firstProject < projects }

// unenforced says why the file system does not keep projects to their limits.
func unenforced(dir *os.File) (string, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &s); err != nil {
		return "", fmt.Errorf("look at file system of %s: %w", dir.Name(), err)
	}
	switch s.Type {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC:
	default:
		return filepath.Dir(dir.Name()) + " is on " + fileSystem(s.Type) + ", which has no project quotas; use a directory on ext4 or xfs that is mounted with prjquota", nil
	}
	on, err := enforces(dir)
	switch {
	case err != nil:
		return "", err
	case !on:
		return filepath.Dir(dir.Name()) + " is on " + fileSystem(s.Type) + " without project quotas; mount it with the option prjquota (see docs/storage.md)", nil
	}
	return "", nil
}

// fileSystem names those that the volumes may be found on.
func fileSystem(magic int64) string {
	switch magic {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs"
	case unix.NFS_SUPER_MAGIC:
		return "nfs"
	case 0x2fc12fc1:
		return "zfs"
	}
	return fmt.Sprintf("a file system of type %#x", magic)
}

// freeProject returns a project that nobody on the file system uses: one with
// a directory counts at least that.
func freeProject(dir *os.File) (uint32, error) {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(dir.Name()))
	for i := range uint32(projects) {
		project := firstProject + (hash.Sum32()+i)%projects
		use, err := usage(dir, project)
		if err != nil {
			return 0, err
		}
		if use == (block{}) {
			return project, nil
		}
	}
	return 0, errors.New("find a free project: all 65536 are used")
}

// setLimit makes a project's limit what it should be, if it is not.
func setLimit(dir *os.File, project uint32, size int64) error {
	want := uint64(size+blockSize-1) / blockSize
	use, err := usage(dir, project)
	if err != nil || use.Limit == want {
		return err
	}
	return setUsage(dir, project, want)
}
