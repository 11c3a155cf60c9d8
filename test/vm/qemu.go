package vm

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// qemuProgram is the emulator; Debian package qemu-system-x86.
const qemuProgram = "qemu-system-x86_64"

type qemuOptions struct {
	base    Base
	disk    string // socket of the block device
	opt     string // image of the second disk
	port    string // socket of the serial port to the guest
	network bool
	memory  int    // MiB
	clock   string // what the hardware's clock shows at power-on; "" is the time
	console string // file that gets the console
}

// args is qemu's command line.
func (o qemuOptions) args() []string {
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-smp", "2", "-m", strconv.Itoa(o.memory),
		"-kernel", o.base.Kernel, "-initrd", o.base.Initrd,
		"-append", "root=LABEL=" + rootLabel + " rw console=ttyS0 panic=-1",
		"-serial", "file:" + o.console,
		// The disk's cache is our side's: a flush in the guest is one here.
		"-blockdev", "driver=nbd,node-name=root,server.type=unix,server.path=" + o.disk,
		"-device", "virtio-blk-pci,drive=root,write-cache=on",
		"-blockdev", "driver=file,node-name=opt,read-only=on,filename=" + o.opt,
		"-device", "virtio-blk-pci,drive=opt",
		"-chardev", "socket,id=guest,server=on,wait=off,path=" + o.port,
		"-device", "virtio-serial-pci",
		"-device", "virtserialport,chardev=guest,name=" + portName,
		"-device", "virtio-rng-pci",
	}
	if hardware() {
		args = append(args, "-accel", "kvm", "-cpu", "host")
	} else {
		// Five-level page tables only cost time.
		args = append(args, "-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max,la57=off")
	}
	if o.clock != "" {
		args = append(args, "-rtc", "base="+o.clock+",clock=vm")
	}
	if o.network {
		return append(args, "-nic", "user,model=virtio-net-pci,restrict=on")
	}
	return append(args, "-nic", "none")
}

// hardware reports whether the processor can run a guest of any kernel. The
// device alone does not say so: kernels with software virtualization (PVM)
// offer it too, for guests made for that.
func hardware() bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(cpu)) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) == "flags" {
			flags := " " + strings.TrimSpace(value) + " "
			return strings.Contains(flags, " vmx ") || strings.Contains(flags, " svm ")
		}
	}
	return false
}

// qemu is a running emulator.
type qemu struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended
}

func startQemu(o qemuOptions) (*qemu, error) {
	// Whoever else uses this machine goes first.
	cmd := exec.Command("nice", append([]string{"-n", "10", qemuProgram}, o.args()...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	messages := &bytes.Buffer{}
	cmd.Stderr = messages
	q := &qemu{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(q.exited)
		runtime.LockOSThread() // the death signal comes when the thread ends
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // killed on purpose, mostly
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", qemuProgram, err)
	}
	return q, nil
}

// kill ends the emulator at once and waits until it is gone.
func (q *qemu) kill() {
	_ = q.cmd.Process.Kill() // fails when it has ended
	<-q.exited
}
