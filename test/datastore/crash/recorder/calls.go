package recorder

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

var reportedEverywhere = []uintptr{
	unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_PWRITEV, unix.SYS_PWRITEV2,
	unix.SYS_FTRUNCATE, unix.SYS_TRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FSYNC, unix.SYS_FDATASYNC,
	unix.SYS_RENAMEAT2, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT, unix.SYS_LINKAT, unix.SYS_SYMLINKAT,
	unix.SYS_COPY_FILE_RANGE, unix.SYS_SENDFILE, unix.SYS_SPLICE,
	unix.SYS_SET_TID_ADDRESS,
}

// record writes down what a call is about to do.
func (r *Recorder) record(n *notification) verdict {
	old(n)
	v, err := r.call(n)
	if err != nil && waits(r.listener, n.id) { // Else the caller was killed meanwhile, and makes no call.
		r.fail(fmt.Errorf("record system call %d(%x) of thread %d: %w", n.nr, n.args, n.pid, err))
	}
	return v
}

func (r *Recorder) call(n *notification) (verdict, error) {
	a := n.args
	switch nr := uintptr(n.nr); {
	case nr == unix.SYS_SET_TID_ADDRESS && r.Clock != nil:
		return goOn, hideVDSO(n)
	case nr == unix.SYS_CLOCK_GETTIME && r.Clock != nil:
		return r.Clock.tell(n)
	case nr == unix.SYS_SET_TID_ADDRESS, nr == unix.SYS_CLOCK_GETTIME, r.Log == nil:
		return goOn, nil
	}
	switch uintptr(n.nr) {
	case unix.SYS_WRITE, unix.SYS_PWRITE64:
		return goOn, r.write(n, int(a[0]), uintptr(a[1]), int(a[2]))
	case unix.SYS_FTRUNCATE:
		if file, ok := r.open(n, a[0]); ok {
			r.Log.Truncate(file, int64(a[1]))
		}
	case unix.SYS_FALLOCATE:
		if file, ok := r.open(n, a[0]); ok && a[1] == 0 {
			r.Log.Extend(file, int64(a[2]+a[3]))
		} else if ok && a[1] != unix.FALLOC_FL_KEEP_SIZE {
			return refuse(unix.EOPNOTSUPP), nil
		}
	case unix.SYS_FSYNC, unix.SYS_FDATASYNC:
		if file, ok := r.open(n, a[0]); ok {
			if fails, forgets := r.fails(n); forgets {
				r.Log.FailSync(file)
				return refuse(unix.EIO), nil
			} else if fails {
				return refuse(unix.EIO), nil
			}
			return verdict{sync: r.Log.StartSync(file)}, nil
		}
	case unix.SYS_COPY_FILE_RANGE, unix.SYS_SPLICE:
		if _, ok := r.open(n, a[2]); ok {
			return refuse(unix.EINVAL), nil // the caller then writes
		}
	case unix.SYS_SENDFILE:
		if _, ok := r.open(n, a[0]); ok {
			return refuse(unix.EINVAL), nil
		}
	case unix.SYS_WRITEV, unix.SYS_PWRITEV, unix.SYS_PWRITEV2:
		if _, ok := r.open(n, a[0]); ok {
			return goOn, fmt.Errorf("writing with a vector is not known here")
		}
	case unix.SYS_MMAP:
		return goOn, r.mmap(n, a[4])
	default:
		return goOn, r.name(n)
	}
	return goOn, nil
}

func refuse(e syscall.Errno) verdict { return verdict{errno: e, sync: -1} }

// fails decides whether a sync fails, and what it could not write is forgotten.
// As in Linux, everybody who has the file open then hears of it, once; with the
// later ones nothing more is forgotten.
func (r *Recorder) fails(n *notification) (fails, forgets bool) {
	dir, own := fmt.Sprintf("/proc/%d/fd", n.pid), fmt.Sprint(int32(n.args[0]))
	file, err := os.Readlink(filepath.Join(dir, own))
	if err != nil {
		return false, false
	}
	if told := r.untold[own]; told != "" {
		delete(r.untold, own)
		if told == file {
			return true, false
		}
	}
	if r.Broken == nil || !r.Broken() {
		return false, false
	}
	all, err := os.ReadDir(dir)
	if err != nil {
		return false, false
	}
	for _, fd := range all {
		if link, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && link == file && fd.Name() != own {
			r.untold[fd.Name()] = file
		}
	}
	return true, true
}

// name records the calls that change names.
func (r *Recorder) name(n *notification) error {
	a := n.args
	switch uintptr(n.nr) {
	case unix.SYS_OPENAT:
		name, err := r.path(n, a[0], a[1])
		if err != nil || name == "" {
			return err
		}
		if a[2]&(unix.O_TMPFILE&^unix.O_DIRECTORY) != 0 {
			return fmt.Errorf("files without a name are not known here")
		}
		if file, ok := r.Log.File(name); ok && a[2]&unix.O_TRUNC != 0 {
			r.Log.Truncate(file, 0)
		} else if !ok && a[2]&unix.O_CREAT != 0 {
			r.Log.Create(name, false)
		}
	case unix.SYS_MKDIRAT:
		name, err := r.path(n, a[0], a[1])
		if err != nil || name == "" {
			return err
		}
		if _, ok := r.Log.File(name); !ok {
			r.Log.Create(name, true)
		}
	case unix.SYS_UNLINKAT:
		name, err := r.path(n, a[0], a[1])
		if err != nil || name == "" {
			return err
		}
		r.Log.Unlink(name)
	case unix.SYS_RENAMEAT2, unix.SYS_LINKAT:
		return r.twoNames(n)
	case unix.SYS_TRUNCATE, unix.SYS_SYMLINKAT:
		for i := range 4 {
			if name, err := r.path(n, uint64(0xffffffffffffff9c), a[i]); err == nil && name != "" {
				return fmt.Errorf("%s: truncate and symlink are not known here", name)
			}
		}
	}
	return nil
}

// twoNames records a rename or a link.
func (r *Recorder) twoNames(n *notification) error {
	a := n.args
	from, err := r.path(n, a[0], a[1])
	if err != nil {
		return err
	}
	to, err := r.path(n, a[2], a[3])
	switch {
	case err != nil:
		return err
	case from == "" && to == "":
	case from == "" || to == "" || a[4] != 0:
		return fmt.Errorf("this way to give a name (%q to %q, flags %d) is not known here", from, to, a[4])
	case uintptr(n.nr) == unix.SYS_LINKAT:
		r.Log.Link(from, to)
	default:
		r.Log.Rename(from, to)
	}
	return nil
}

// open returns the number of the file behind a descriptor, if it is recorded.
func (r *Recorder) open(n *notification, fd uint64) (int, bool) {
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.pid, int32(fd)))
	if err != nil {
		return 0, false
	}
	// What is written to a file without a name is gone with the power.
	name, ok := r.inside(link)
	if !ok {
		return 0, false
	}
	return r.Log.File(name)
}

// inside returns a path relative to the recorded directory.
func (r *Recorder) inside(path string) (string, bool) {
	if path == r.Dir {
		return ".", true
	}
	return strings.CutPrefix(path, r.Dir+"/")
}

func (r *Recorder) write(n *notification, fd int, address uintptr, size int) error {
	file, ok := r.open(n, uint64(fd))
	if !ok {
		return nil
	}
	off := int64(n.args[3])
	if uintptr(n.nr) == unix.SYS_WRITE {
		var err error
		if off, err = r.offset(n, fd, file); err != nil {
			return err
		}
	}
	data := make([]byte, size)
	if got, err := peek(n, data, address); err != nil || got != size {
		return fmt.Errorf("read %d bytes to be written: got %d: %w", size, got, err)
	}
	r.Log.Write(file, off, data)
	return nil
}

// offset is where a write without an offset goes to.
func (r *Recorder) offset(n *notification, fd, file int) (int64, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", n.pid, fd))
	if err != nil {
		return 0, err
	}
	pos, flags := int64(-1), int64(0)
	for line := range bytes.Lines(info) {
		f := strings.Fields(string(line))
		switch {
		case len(f) == 2 && f[0] == "pos:":
			pos, err = strconv.ParseInt(f[1], 10, 64)
		case len(f) == 2 && f[0] == "flags:":
			flags, err = strconv.ParseInt(f[1], 8, 64)
		}
		if err != nil {
			return 0, err
		}
	}
	if flags&unix.O_APPEND != 0 {
		return r.Log.Size(file), nil
	}
	return pos, nil
}

// mmap notes which files are shared memory. SQLite has one, which it makes anew
// after a crash.
func (r *Recorder) mmap(n *notification, fd uint64) error {
	file, ok := r.open(n, fd)
	if !ok {
		return nil
	}
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.pid, int32(fd)))
	if err != nil {
		return err
	}
	if !strings.HasSuffix(link, "-shm") {
		return fmt.Errorf("%s is written through shared memory, which cannot be recorded", link)
	}
	r.Log.Shared(file)
	return nil
}

// path reads a path argument. It is "" outside the recorded directory.
func (r *Recorder) path(n *notification, dirfd, address uint64) (string, error) {
	var text []byte
	for !bytes.ContainsRune(text, 0) {
		at := uintptr(address) + uintptr(len(text))
		// Not beyond a page: the next one may not be there.
		part := make([]byte, os.Getpagesize()-int(at%uintptr(os.Getpagesize())))
		if _, err := peek(n, part, at); err != nil {
			return "", fmt.Errorf("read a path: %w", err)
		}
		text = append(text, part...)
	}
	path, _, _ := strings.Cut(string(text), "\x00")
	if !filepath.IsAbs(path) {
		base := fmt.Sprintf("/proc/%d/cwd", n.pid)
		if int32(dirfd) != unix.AT_FDCWD {
			base = fmt.Sprintf("/proc/%d/fd/%d", n.pid, int32(dirfd))
		}
		dir, err := os.Readlink(base)
		if err != nil {
			return "", err
		}
		path = filepath.Join(dir, path)
	}
	name, ok := r.inside(filepath.Clean(path))
	if !ok {
		return "", nil
	}
	return name, nil
}

// peek reads memory of the thread that waits.
func peek(n *notification, into []byte, address uintptr) (int, error) {
	if len(into) == 0 {
		return 0, nil
	}
	return unix.ProcessVMReadv(int(n.pid),
		[]unix.Iovec{{Base: &into[0], Len: uint64(len(into))}},
		[]unix.RemoteIovec{{Base: address, Len: len(into)}}, 0)
}
