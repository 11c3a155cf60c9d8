package hosts

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// StartServer runs `skiff server` with the arguments, which Start and Restart
// use again. It does not wait: see WaitReady.
func (h *Host) StartServer(args ...string) {
	h.t.Helper()
	h.mu.Lock()
	h.args = append([]string{"skiff", "server"}, args...)
	h.mu.Unlock()
	h.Start()
}

// StartAgent runs `skiff agent` as a node of the server's cluster, with the
// server's token and the arguments, which Start and Restart use again. The
// server must have been started; it need not be ready.
func (h *Host) StartAgent(server *Host, args ...string) {
	h.t.Helper()
	const file = "/var/lib/skiff/server/token"
	Eventually(h.t, time.Minute, "the join token of "+server.name, func() error {
		_, err := os.Stat(server.Path(file))
		return err
	})
	token := strings.TrimSpace(server.ReadFile(file))
	h.mu.Lock()
	h.args = append([]string{"skiff", "agent", "--server", "https://" + net.JoinHostPort(server.Addr(), "6443"), "--token", token}, args...)
	h.mu.Unlock()
	h.Start()
}

// StartWith runs a command that becomes skiff, such as env with settings, which
// Start and Restart use again.
func (h *Host) StartWith(command ...string) {
	h.t.Helper()
	h.mu.Lock()
	h.args = command
	h.mu.Unlock()
	h.Start()
}

// Start starts skiff again as StartServer or StartAgent did, booting the host if
// its power
// was cut.
func (h *Host) Start() {
	h.t.Helper()
	h.mu.Lock()
	off, running, args := h.machine == nil, h.skiff != nil, slices.Clone(h.args)
	h.mu.Unlock()
	if running {
		h.t.Fatalf("start skiff on %s: it runs already", h.name)
	}
	if off {
		h.boot()
	}
	log, err := os.OpenFile(h.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		h.t.Fatalf("start skiff on %s: %v", h.name, err)
	}
	defer log.Close()
	p := h.Spawn(Command{Args: args, Stdout: log, Stderr: log})
	h.mu.Lock()
	h.skiff = p
	h.mu.Unlock()
}

// Skiff is the running server process; the test fails when there is none.
func (h *Host) Skiff() *Process {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.skiff == nil {
		h.t.Fatalf("skiff does not run on %s", h.name)
	}
	return h.skiff
}

// Runs reports whether skiff was started and neither stopped nor killed since.
func (h *Host) Runs() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.skiff != nil
}

// WaitReady waits until `skiff status` says that all is ready.
func (h *Host) WaitReady() {
	h.t.Helper()
	p := h.Skiff()
	var out safeBuffer
	status := h.Spawn(Command{Args: []string{"skiff", "status", "--wait", "120s"}, Stdout: &out, Stderr: &out})
	select {
	case <-status.Exited():
		if code := status.Wait(); code != 0 {
			h.t.Fatalf("skiff on %s is not ready: exit code %d\n%s", h.name, code, out.String())
		}
	case <-p.Exited():
		h.t.Fatalf("skiff on %s ended with code %d before it was ready", h.name, p.Wait())
	}
}

// Stop ends skiff with SIGTERM, which has to be done within 10 seconds with
// exit code 0. Pods go on.
func (h *Host) Stop() {
	h.t.Helper()
	p := h.Skiff()
	begin := time.Now()
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.Exited():
	case <-time.After(15 * time.Second):
		p.Signal(syscall.SIGQUIT) // the stacks of all goroutines go to the log
		<-time.After(2 * time.Second)
		h.t.Fatalf("skiff on %s has not stopped within 15 s", h.name)
	}
	h.forget()
	if code := p.Wait(); code != 0 {
		h.t.Errorf("skiff on %s ended with code %d after SIGTERM", h.name, code)
	}
	if took := time.Since(begin); took > 10*time.Second {
		h.t.Errorf("skiff on %s took %s to stop, want 10 s at most", h.name, took.Round(time.Millisecond))
	}
}

// Kill9 ends skiff with SIGKILL and waits until it is gone. Its children die
// with it or are found by the next start; pods go on.
func (h *Host) Kill9() {
	h.t.Helper()
	p := h.Skiff()
	p.Signal(syscall.SIGKILL)
	p.Wait()
	h.forget()
}

// Forget is called when something else has stopped skiff; it waits for the end.
func (h *Host) Forget() {
	h.t.Helper()
	<-h.Skiff().Exited()
	h.forget()
}

func (h *Host) forget() {
	h.mu.Lock()
	h.skiff = nil
	h.mu.Unlock()
}

// Restart stops skiff, starts it again and waits until it is ready.
func (h *Host) Restart() {
	h.t.Helper()
	h.Stop()
	h.Start()
	h.WaitReady()
}

// Status runs `skiff status` with the arguments.
func (h *Host) Status(args ...string) Result {
	h.t.Helper()
	return h.Exec(append([]string{"skiff", "status"}, args...)...)
}

// Kubectl runs `skiff kubectl`, which must succeed, and returns what it prints.
func (h *Host) Kubectl(args ...string) string {
	h.t.Helper()
	return h.Run(append([]string{"skiff", "kubectl"}, args...)...)
}

// Apply applies YAML with `skiff kubectl apply`.
func (h *Host) Apply(yaml string) {
	h.t.Helper()
	r := h.ExecWith(Command{Args: []string{"skiff", "kubectl", "apply", "-f", "-"}, Stdin: strings.NewReader(yaml)})
	if r.Code != 0 {
		h.t.Fatalf("kubectl apply on %s: %s\n%s", h.name, r, yaml)
	}
}

func (h *host) logFile() string { return filepath.Join(h.dir, "skiff.log") }

// Log is all that skiff has printed on this host, over all its starts.
func (h *Host) Log() string {
	b, _ := os.ReadFile(h.logFile()) // no file: not started yet
	return string(b)
}

// tail is the end of the log, for failure messages; long lines are cut.
func (h *Host) tail(lines int) string {
	all := strings.Split(strings.TrimRight(h.Log(), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	for i, line := range all {
		all[i] = line[:min(len(line), 300)]
	}
	return fmt.Sprintf("--- last %d lines of skiff on %s ---\n%s\n---", len(all), h.name, strings.Join(all, "\n"))
}

// checkLog fails the test for what must never be in a log, and attaches the
// end of the log to a failed test.
func (h *Host) checkLog() {
	for line := range strings.SplitSeq(h.Log(), "\n") {
		if strings.Contains(line, "panic:") || strings.Contains(line, "DATA RACE") {
			h.t.Errorf("log of skiff on %s has: %s", h.name, line)
			break
		}
	}
	if h.t.Failed() && h.Log() != "" {
		h.t.Logf("%s", h.tail(100))
	}
}
