package servers

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Kill ends the server as a crash of the machine does: all of its processes at
// once. The first one's death alone would leave those that Postgres has for its
// connections answering for a moment.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	if !s.running() {
		return
	}
	pid := s.cmd.Process.Pid
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil { // it starts no more
		t.Fatal(err)
	}
	others, err := children(pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, child := range others {
		if err := syscall.Kill(child, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
	if err := s.stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	limit := time.Now().Add(stopTimeout)
	for _, child := range others {
		for alive(child) {
			if time.Now().After(limit) {
				t.Fatalf("process %d of the server is still there %v after it was killed", child, stopTimeout)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// children are the processes that pid has started.
func children(pid int) (pids []int, err error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if fields := stat(file); len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			child, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				return nil, err
			}
			pids = append(pids, child)
		}
	}
	return pids, nil
}

// alive says whether a process still runs; one that only waits to be reaped
// does not.
func alive(pid int) bool {
	fields := stat(fmt.Sprintf("/proc/%d/stat", pid))
	return len(fields) > 0 && fields[0] != "Z" && fields[0] != "X"
}

// stat are the fields of a process after its name: state, parent and more.
// There are none when the process is gone.
func stat(file string) []string {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	return strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
}
