package hosts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// machine is a host that is switched on: its namespaces and their init.
type machine struct {
	pid     int // of the init, as this process sees it
	control int // our end of the control socket
	netns   *os.File
	port    string        // of the switch that eth0 is plugged into, "" without a network
	gone    chan struct{} // closed when the init and all below it are gone

	troubled bool // the kernel has rules of a trouble; guarded by the host's mu

	mu     sync.Mutex
	nextID int
	procs  map[int]*Process
	// All above, below mu, are guarded by it.
}

// boot switches the host on.
func (h *Host) boot() {
	h.t.Helper()
	m, err := h.start()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(h.dir, "init.log"))
		h.t.Fatalf("boot host %s: %v\n%s", h.name, err, log)
	}
	h.mu.Lock()
	h.machine = m
	h.mu.Unlock()
	if err := m.linkUp("lo"); err != nil {
		h.t.Fatalf("boot host %s: %v", h.name, err)
	}
	if h.network != nil {
		h.plug()
	}
}

// start starts the init and waits until it has set the namespaces up.
func (h *host) start() (*machine, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	log, err := os.OpenFile(filepath.Join(h.dir, "init.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{initName, stageOne}, Env: []string{"PATH=" + hostPath},
		Stdout: log, Stderr: log, ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC,
			Pdeathsig:  syscall.SIGKILL,
		},
	}
	m := &machine{control: pair[0], gone: make(chan struct{}), procs: map[int]*Process{}}
	if err := m.run(cmd); err != nil {
		_ = unix.Close(pair[0])
		return nil, err
	}
	if err := m.setUp(h); err != nil {
		m.powerOff()
		return nil, err
	}
	go m.listen()
	return m, nil
}

// run starts the init and keeps the thread it was started from, because the
// death of that thread is what Pdeathsig waits for.
func (m *machine) run(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // returns when the whole PID namespace is gone
			close(m.gone)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start the init: %w", err)
	}
	m.pid = cmd.Process.Pid
	return nil
}

func (m *machine) setUp(h *host) error {
	cgroups, err := makeCgroups(h.id, m.pid)
	if err != nil {
		return err
	}
	s := spec{
		Hostname: h.name, Dir: h.dir, Binary: h.settings.binary,
		Binds: h.settings.binds, Tmpfs: h.settings.tmpfs, Cgroups: cgroups,
	}
	if err := send(m.control, s); err != nil {
		return err
	}
	var up event
	_, ok, err := receive(m.control, &up)
	if err != nil {
		return err
	}
	if !ok || up.Err != "" {
		return fmt.Errorf("set the namespaces up: init ended early: %s", up.Err)
	}
	m.netns, err = os.Open(filepath.Join("/proc", strconv.Itoa(m.pid), "ns/net"))
	return err
}

// listen hands the init's reports to the processes they are about.
func (m *machine) listen() {
	for {
		var e event
		_, ok, err := receive(m.control, &e)
		if err != nil || !ok {
			break
		}
		m.mu.Lock()
		p := m.procs[e.ID]
		if e.Exited {
			delete(m.procs, e.ID)
		}
		m.mu.Unlock()
		if p != nil {
			p.report(e)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, p := range m.procs {
		delete(m.procs, id)
		p.report(event{Exited: true, Code: 128 + int(syscall.SIGKILL), Err: "the power went off"})
	}
}

// powerOff kills the init, and with it everything on the host, and waits.
func (m *machine) powerOff() {
	_ = unix.Kill(m.pid, unix.SIGKILL)
	<-m.gone
	_ = unix.Shutdown(m.control, unix.SHUT_RDWR)
	if m.netns != nil {
		_ = m.netns.Close()
	}
}

// on returns the running machine; a host without power fails the test.
func (h *Host) on() *machine {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.machine == nil {
		h.t.Fatalf("host %s is switched off", h.name)
	}
	return h.machine
}

// PowerCut ends everything on the host at once, pods included. What was
// written survives in the machine's page cache, so this tests recovery, not
// whether data had been synced to the disk. Boot switches the host on again.
func (h *Host) PowerCut() {
	h.mu.Lock()
	m := h.machine
	h.machine, h.skiff = nil, nil
	h.mu.Unlock()
	if m == nil {
		return
	}
	m.powerOff()
	_ = unix.Close(m.control)
	if m.port != "" {
		if err := h.network.unplug(m.port); err != nil {
			h.t.Errorf("unplug host %s: %v", h.name, err)
		}
	}
}

// Boot switches the host on after a PowerCut; skiff is not started.
func (h *Host) Boot() {
	h.t.Helper()
	h.boot()
}

// remove takes the host off the machine and reports on a failed test.
func (h *Host) remove() {
	h.checkLog()
	h.PowerCut()
	if err := removeCgroups(h.id); err != nil {
		h.t.Errorf("remove cgroups of host %s: %v", h.name, err)
	}
	defer h.lock.Close()
	if h.t.Failed() && os.Getenv("SKIFF_KEEP") == "failure" {
		kept := filepath.Join(baseDir(), "keep-"+h.id)
		if err := os.Rename(h.dir, kept); err == nil {
			h.t.Logf("SKIFF_KEEP=failure: the disk of %s and skiff's log are in %s", h.name, kept)
			return
		}
	}
	if err := removeDir(h.dir); err != nil {
		h.t.Errorf("remove host %s: %v", h.name, err)
	}
}
