package storage

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From the kernel's linux/fs.h, linux/quota.h and linux/dqblk_xfs.h; x/sys has
// none of them.
const (
	getAttributes  = 0x801c581f // FS_IOC_FSGETXATTR
	setAttributes  = 0x401c5820 // FS_IOC_FSSETXATTR
	projectInherit = 0x200      // FS_XFLAG_PROJINHERIT

	projectQuota  = 2        // PRJQUOTA
	getQuota      = 0x800007 // Q_GETQUOTA
	setQuota      = 0x800008 // Q_SETQUOTA
	getState      = 0x5808   // Q_XGETQSTATV
	validLimits   = 1        // QIF_BLIMITS
	enforced      = 1 << 5   // FS_QUOTA_PDQ_ENFD
	stateVersion1 = 1        // FS_QSTATV_VERSION1

	blockSize = 1024 // QIF_DQBLKSIZE: limits are in these
)

// attributes is struct fsxattr.
type attributes struct {
	Flags, ExtentSize, Extents, Project, CowExtentSize uint32
	_                                                  [8]byte
}

// quotaBlock is struct if_dqblk.
type quotaBlock struct {
	HardLimit, SoftLimit, Space, InodeHardLimit, InodeSoftLimit, Inodes, BlockTime, InodeTime uint64
	Valid                                                                                     uint32
	_                                                                                         uint32
}

// quotaState is struct fs_quota_statv.
type quotaState struct {
	Version int8
	_       uint8
	Flags   uint16
	_       [156]byte
}

// block is what there is to a project: its limit in blocks, the bytes and
// inodes it uses.
type block struct{ Limit, Space, Inodes uint64 }

func attributesOf(f *os.File) (attributes, error) {
	var a attributes
	err := onFile(f, func(fd uintptr) unix.Errno {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, fd, getAttributes, uintptr(unsafe.Pointer(&a)))
		return e
	})
	return a, err
}

// projectOf returns a directory's project; a file system without projects has
// 0 only.
func projectOf(f *os.File) (uint32, error) {
	a, err := attributesOf(f)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read project of %s: %w", f.Name(), err)
	}
	return a.Project, nil
}

// setProject makes a directory, and what will be made in it, part of a project.
func setProject(f *os.File, project uint32) error {
	a, err := attributesOf(f)
	if err != nil {
		return fmt.Errorf("read project of %s: %w", f.Name(), err)
	}
	a.Project = project
	a.Flags |= projectInherit
	err = onFile(f, func(fd uintptr) unix.Errno {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, fd, setAttributes, uintptr(unsafe.Pointer(&a)))
		return e
	})
	if err != nil {
		return fmt.Errorf("write project of %s: %w", f.Name(), err)
	}
	return nil
}

// enforces reports whether the file system keeps projects to their limits.
func enforces(f *os.File) (bool, error) {
	s := quotaState{Version: stateVersion1}
	err := quotactl(f, getState, 0, unsafe.Pointer(&s))
	// ENOSYS is what a file system says that counts nothing, and a kernel that
	// is older than the call (5.14).
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read state of quotas of %s: %w", f.Name(), err)
	}
	return s.Flags&enforced != 0, nil
}

func usage(f *os.File, project uint32) (block, error) {
	var q quotaBlock
	err := quotactl(f, getQuota, project, unsafe.Pointer(&q))
	if errors.Is(err, unix.ENOENT) {
		return block{}, nil
	}
	if err != nil {
		return block{}, fmt.Errorf("read quota of project %d of %s: %w", project, f.Name(), err)
	}
	return block{Limit: q.HardLimit, Space: q.Space, Inodes: q.Inodes}, nil
}

func setUsage(f *os.File, project uint32, limit uint64) error {
	q := quotaBlock{HardLimit: limit, Valid: validLimits}
	if err := quotactl(f, setQuota, project, unsafe.Pointer(&q)); err != nil {
		return fmt.Errorf("write quota of project %d of %s: %w", project, f.Name(), err)
	}
	return nil
}

// quotactl asks the file system that f is on; unlike quotactl(2) it needs no
// device, which a container or an image may not have.
func quotactl(f *os.File, command uintptr, id uint32, data unsafe.Pointer) error {
	return onFile(f, func(fd uintptr) unix.Errno {
		_, _, e := unix.Syscall6(unix.SYS_QUOTACTL_FD, fd, command<<8|projectQuota, uintptr(id), uintptr(data), 0, 0)
		return e
	})
}

// onFile calls the kernel with a descriptor that stays open meanwhile.
func onFile(f *os.File, call func(fd uintptr) unix.Errno) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var e unix.Errno
	if err := raw.Control(func(fd uintptr) { e = call(fd) }); err != nil {
		return err
	}
	if e != 0 {
		return e
	}
	return nil
}
