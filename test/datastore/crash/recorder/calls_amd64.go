package recorder

import "golang.org/x/sys/unix"

// opens take their flags in the second argument.
var opens = []uintptr{unix.SYS_OPEN}

// reported calls stop whatever their arguments are.
var reported = append([]uintptr{
	unix.SYS_CREAT, unix.SYS_RENAME, unix.SYS_UNLINK, unix.SYS_RMDIR, unix.SYS_MKDIR, unix.SYS_LINK, unix.SYS_SYMLINK,
	unix.SYS_RENAMEAT,
}, reportedEverywhere...)

// old gives the calls of this architecture that name a path the form of those
// that all have: relative to a directory.
func old(n *notification) {
	const cwd = uint64(0xffffffffffffff9c) // AT_FDCWD
	a := n.args
	switch uintptr(n.nr) {
	case unix.SYS_OPEN:
		n.nr, n.args = unix.SYS_OPENAT, [6]uint64{cwd, a[0], a[1], a[2]}
	case unix.SYS_CREAT:
		n.nr, n.args = unix.SYS_OPENAT, [6]uint64{cwd, a[0], unix.O_CREAT | unix.O_WRONLY | unix.O_TRUNC, a[1]}
	case unix.SYS_RENAME:
		n.nr, n.args = unix.SYS_RENAMEAT2, [6]uint64{cwd, a[0], cwd, a[1]}
	case unix.SYS_RENAMEAT:
		n.nr = unix.SYS_RENAMEAT2
		n.args[4] = 0
	case unix.SYS_UNLINK:
		n.nr, n.args = unix.SYS_UNLINKAT, [6]uint64{cwd, a[0]}
	case unix.SYS_RMDIR:
		n.nr, n.args = unix.SYS_UNLINKAT, [6]uint64{cwd, a[0], unix.AT_REMOVEDIR}
	case unix.SYS_MKDIR:
		n.nr, n.args = unix.SYS_MKDIRAT, [6]uint64{cwd, a[0], a[1]}
	case unix.SYS_LINK:
		n.nr, n.args = unix.SYS_LINKAT, [6]uint64{cwd, a[0], cwd, a[1]}
	case unix.SYS_SYMLINK:
		n.nr, n.args = unix.SYS_SYMLINKAT, [6]uint64{a[0], cwd, a[1]}
	}
}
