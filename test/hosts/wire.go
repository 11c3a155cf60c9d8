package hosts

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// controlFD is the init's end of the control socket. Its end of file is the
// sign that the test process is gone: then the init leaves, and the kernel
// ends everything in its PID namespace.
const controlFD = 3

// spec tells the init of a host what to set up.
type spec struct {
	Hostname string
	Dir      string
	Binary   string
	Binds    []Bind
	Tmpfs    []Tmpfs
	Cgroups  []hierarchy
}

// request asks the init to start a process (three file descriptors come along)
// or to send a signal to one it has started.
type request struct {
	ID     int
	Args   []string
	Env    []string
	Dir    string
	Signal int // not 0: signal the process that was started under ID
}

// event is what the init reports: that it is up (ID 0), that a process has
// started, or how it ended.
type event struct {
	ID     int
	PID    int // inside the host; set when the process has started
	Exited bool
	Code   int // exit code; 128+signal when killed
	Err    string
}

const maxMessage = 1 << 17

func send(fd int, message any, files ...*os.File) error {
	b, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("send to host: message of %d bytes is too long", len(b))
	}
	var rights []byte
	if len(files) > 0 {
		var fds []int
		for _, f := range files {
			fds = append(fds, int(f.Fd()))
		}
		rights = unix.UnixRights(fds...)
	}
	for {
		err = unix.Sendmsg(fd, b, rights, nil, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// receive reads one message; ok is false at the end of the connection.
func receive(fd int, message any) (fds []int, ok bool, err error) {
	b, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(3*4))
	var n, oobn int
	for {
		n, oobn, _, _, err = unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil || n == 0 {
		return nil, false, err
	}
	if oobn > 0 {
		controls, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return nil, false, err
		}
		for _, c := range controls {
			got, err := unix.ParseUnixRights(&c)
			if err != nil {
				return nil, false, err
			}
			fds = append(fds, got...)
		}
	}
	return fds, true, json.Unmarshal(b[:n], message)
}
