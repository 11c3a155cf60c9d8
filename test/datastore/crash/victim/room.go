package victim

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// roomVar hands a process the file system that it shall hold: size and place.
const roomVar = "SKIFF_CRASH_ROOM"

// keepRoom is the life of a process that holds a file system. It ends with the
// test, and the file system with it.
func keepRoom() {
	size, dir, ok := strings.Cut(os.Getenv(roomVar), ":")
	if !ok {
		return
	}
	err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	if err == nil {
		err = syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=700,size="+size)
	}
	if err != nil {
		fmt.Println("mount tmpfs:", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// Room is a small file system that only victims see, and only while it is
// there.
type Room struct {
	dir   string
	cmd   *exec.Cmd
	stdin io.Closer
}

// NewRoom mounts a file system in memory over dir.
func NewRoom(dir, size string) (*Room, error) {
	r := &Room{dir: dir, cmd: exec.Command("/proc/self/exe")}
	r.cmd.Env = append(os.Environ(), roomVar+"="+size+":"+dir)
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	var err error
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		r.Close()
		return nil, fmt.Errorf("make a file system: %q, %w", line, err)
	}
	return r, nil
}

// PID is what Spec.Room wants.
func (r *Room) PID() int { return r.cmd.Process.Pid }

// Path is where the test finds a file of the room.
func (r *Room) Path(name string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", r.PID()), r.dir, name)
}

// Close removes the room.
func (r *Room) Close() {
	_ = r.stdin.Close()
	_ = r.cmd.Wait()
}
