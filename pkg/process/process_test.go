package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// journal is a log that tests can wait on.
type journal struct {
	mu    sync.Mutex
	lines []string
	more  chan struct{}
}

func newJournal() *journal { return &journal{more: make(chan struct{}, 1)} }

func (j *journal) Enabled(context.Context, slog.Level) bool { return true }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler       { return j }
func (j *journal) WithGroup(string) slog.Handler            { return j }

func (j *journal) Handle(_ context.Context, r slog.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, r.Level.String()+" "+r.Message)
	select {
	case j.more <- struct{}{}:
	default:
	}
	return nil
}

// wait blocks until a line matches and returns its first group.
func (j *journal) wait(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	limit := time.After(30 * time.Second)
	for {
		j.mu.Lock()
		for _, l := range j.lines {
			if m := re.FindStringSubmatch(l); m != nil {
				j.mu.Unlock()
				return m[len(m)-1]
			}
		}
		j.mu.Unlock()
		select {
		case <-j.more:
		case <-limit:
			t.Fatalf("no line matches %q in %q", pattern, j.lines)
		}
	}
}

func child(script string, l slog.Handler) *Process {
	p := Self("child")
	p.Env = append(os.Environ(), childEnv+"="+script)
	p.Logger = slog.New(l)
	p.StopTimeout = 20 * time.Second
	return p
}

// run starts p and returns how to stop it.
func run(t *testing.T, p *Process) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- p.Run(ctx) }()
	t.Cleanup(cancel)
	return func() error { cancel(); return <-result }
}

func TestStopBySignal(t *testing.T) {
	for _, sig := range []syscall.Signal{0, syscall.SIGINT} {
		j := newJournal()
		p := child("await", j)
		want := "terminated"
		if sig != 0 {
			p.StopSignal, want = sig, "interrupt"
		}
		if err := p.Ready(t.Context()); err == nil {
			t.Error("ready before Run")
		}
		stop := run(t, p)
		j.wait(t, "INFO waiting")
		if err := p.Ready(t.Context()); err != nil {
			t.Errorf("Ready: %v", err)
		}
		if p.PID() == 0 {
			t.Error("no PID while it runs")
		}
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		j.wait(t, "INFO got "+want)
		if p.PID() != 0 {
			t.Error("a PID after the end")
		}
	}
}

func TestKillAfterTimeout(t *testing.T) {
	j := newJournal()
	p := child("trap; say trapped; forever", j)
	p.StopTimeout = 50 * time.Millisecond
	stop := run(t, p)
	j.wait(t, "trapped")
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	j.wait(t, "WARN process did not stop in time")
}

func TestExitError(t *testing.T) {
	j := newJournal()
	err := child("say a; err b; say c; exit 3", j).Run(t.Context())
	exit, ok := errors.AsType[*ExitError](err)
	if !ok {
		t.Fatalf("Run: %v, want an ExitError", err)
	}
	if exit.State.ExitCode() != 3 || exit.Name != "child" || exit.PID == 0 {
		t.Errorf("exit error %+v", exit)
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, exit.Lines); diff != "" {
		t.Errorf("last lines -want +got:\n%s", diff)
	}
	if want := "exit status 3; its last lines:\n  a\n  b\n  c"; !strings.HasSuffix(err.Error(), want) {
		t.Errorf("error %q does not end with %q", err, want)
	}
	if err := child("exit 0", j).Run(t.Context()); err == nil {
		t.Error("an unasked exit with 0 is no error")
	}
	p := child("", j)
	p.Path = "./no such file"
	if err := p.Run(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Run: %v, want ErrNotExist", err)
	}
}

// TestGrandchild ends a child whose own child keeps the output open: Run must
// return, and the grandchild lives on, unless KillGroup is set.
func TestGrandchild(t *testing.T) {
	for _, kill := range []bool{false, true} {
		t.Run(fmt.Sprintf("kill=%v", kill), func(t *testing.T) {
			j := newJournal()
			p := child("grandchild; await", j)
			p.KillGroup = kill
			stop := run(t, p)
			pid, err := strconv.Atoi(j.wait(t, `grandchild (\d+)`))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
			j.wait(t, "waiting")
			if err := stop(); err != nil {
				t.Errorf("Run: %v", err)
			}
			if kill {
				waitGone(t, pid)
			} else if !alive(pid) {
				t.Error("the grandchild is gone")
			}
		})
	}
}

// TestDiesWithParent kills a parent, itself a child of this test, and expects
// the parent's Process to go too.
func TestDiesWithParent(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"=parent")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	if !alive(pid) {
		t.Fatal("the process does not run")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // It was killed, which is an error.
	waitGone(t, pid)
}

// runParent is the parent of TestDiesWithParent.
func runParent() {
	j := newJournal()
	p := child("say up; forever", j)
	go func() { _ = p.Run(context.Background()) }()
	for range j.more {
		if pid := p.PID(); pid != 0 {
			fmt.Println(pid)
			break
		}
	}
	select {}
}

func TestSlowLogBlocksNobody(t *testing.T) {
	gate := &gated{journal: newJournal(), gate: make(chan struct{})}
	p := child("spam 5000; err end", gate)
	result := make(chan error, 1)
	go func() { result <- p.Run(t.Context()) }()
	// The log hangs at the child's first line, and the child ends all the same.
	exit, ok := errors.AsType[*ExitError](<-result)
	if !ok || exit.Lines[len(exit.Lines)-1] != "end" {
		t.Errorf("Run: %v, want the exit error with the last line", exit)
	}
	close(gate.gate)
	gate.wait(t, "WARN log lines of the process were dropped")
}

// gated is a log that hangs on lines of the child.
type gated struct {
	*journal
	gate chan struct{}
}

func (g *gated) WithAttrs([]slog.Attr) slog.Handler { return g }

func (g *gated) Handle(ctx context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "line ") {
		<-g.gate
	}
	return g.journal.Handle(ctx, r)
}

func TestPump(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	tests := []struct {
		name   string
		writes []string
		want   []string
	}{
		{"lines", []string{"a\nb\n"}, []string{"a", "b"}},
		{"pieces", []string{"a", "b\nc", "", "\n"}, []string{"ab", "c"}},
		{"no end", []string{"a\nb"}, []string{"a", "b"}},
		{"blank lines and carriage returns", []string{"a\r\n\n  \nb\n"}, []string{"a", "b"}},
		{"long", []string{long + "yz\n"}, []string{long, "yz"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := newJournal()
			p := newPump(slog.New(j), func(line string) (slog.Level, string, []slog.Attr) {
				return slog.LevelWarn, line, nil
			})
			for _, w := range tt.writes {
				if n, err := p.Write([]byte(w)); n != len(w) || err != nil {
					t.Fatalf("Write: %d, %v", n, err)
				}
			}
			p.close()
			want := make([]string, len(tt.want))
			for i, w := range tt.want {
				want[i] = "WARN " + w
			}
			if diff := cmp.Diff(want, j.lines); diff != "" {
				t.Errorf("log -want +got:\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, p.lastLines()); diff != "" {
				t.Errorf("last lines -want +got:\n%s", diff)
			}
		})
	}
}

// alive tells a zombie from the living: nobody may be there to reap it.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for alive(pid) {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("process %d is still alive", pid)
		}
	}
}
