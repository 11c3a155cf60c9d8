// Package victim runs a datastore in a process of its own, which a test may
// kill, put under a recorder, or run out of space. The test's executable is
// that process too: Init makes it one. Start reading at Start.
package victim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"skiff/pkg/datastore"
)

// specVar hands a process its task.
const specVar = "SKIFF_CRASH_VICTIM"

// Spec says what a process shall run.
type Spec struct {
	Dir        string
	Socket     string
	Durability string
	BootID     string
	// Bootstrap is the first start of a cluster. SIGUSR1 says that it is
	// complete; the victim says "settled" when that is on the disk.
	Bootstrap bool
	// Room is the process that holds the mounts to run with, 0 for the test's.
	Room int
}

// Options are those of the datastore.
func (s Spec) Options(logger *slog.Logger) datastore.Options {
	return datastore.Options{Dir: s.Dir, Socket: s.Socket, Durability: s.Durability, BootID: s.BootID, Bootstrap: s.Bootstrap, Logger: logger}
}

// Init must be called early in TestMain. In a victim it does not return.
func Init() {
	keepRoom()
	text := os.Getenv(specVar)
	if text == "" {
		return
	}
	var s Spec
	err := json.Unmarshal([]byte(text), &s)
	if err == nil {
		err = run(s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "victim:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run serves until SIGTERM. It does not outlive the test: then its standard
// input ends.
func run(s Spec) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(2)
	}()
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	defer logger.Info("the victim stops")
	return Serve(ctx, s.Options(logger), func(ds datastore.Datastore) {
		logger.Info("the victim is ready")
		fmt.Println("ready")
		if !s.Bootstrap {
			return
		}
		done := make(chan os.Signal, 1)
		signal.Notify(done, syscall.SIGUSR1)
		select {
		case <-ctx.Done():
			return
		case <-done:
		}
		if err := ds.Settle(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "victim: settle:", err)
			return
		}
		fmt.Println("settled")
	})
}

// Serve runs a datastore until ctx ends, and calls ready once it answers.
func Serve(ctx context.Context, o datastore.Options, ready func(datastore.Datastore)) error {
	ds, err := datastore.Open(o)
	if err != nil {
		return err
	}
	ended, end := context.WithCancel(ctx)
	defer end()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for ds.Ready(ended) != nil {
			select {
			case <-ended.Done():
				return
			case <-time.After(time.Millisecond):
			}
		}
		ready(ds)
	})
	err = ds.Run(ctx)
	end()
	return err
}

// Victim is a running process.
type Victim struct {
	Spec   Spec
	cmd    *exec.Cmd
	stdin  io.Closer
	stderr syncBuffer
	exited chan struct{}
	err    error // valid once exited is closed

	settled chan struct{} // closed once it has said so
}

// Start starts a victim and waits until its datastore answers. The command is
// started by start, for instance under a recorder; nil just starts it.
func Start(s Spec, start func(*exec.Cmd) error) (*Victim, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	v := &Victim{Spec: s, exited: make(chan struct{}), settled: make(chan struct{})}
	args := []string{"/proc/self/exe"}
	if s.Room != 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		args = []string{"nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", s.Room), self}
	}
	v.cmd = exec.Command(args[0], args[1:]...)
	v.cmd.Env = append(os.Environ(), specVar+"="+string(text))
	v.cmd.Stderr = &v.stderr
	if v.stdin, err = v.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if start == nil {
		start = (*exec.Cmd).Start
	}
	if err := start(v.cmd); err != nil {
		return nil, err
	}
	said := bufio.NewReader(out)
	line, err := said.ReadString('\n')
	go func() {
		if next, _ := said.ReadString('\n'); next == "settled\n" {
			close(v.settled)
		}
		_, _ = io.Copy(io.Discard, said)
		v.err = v.cmd.Wait()
		close(v.exited)
	}()
	if strings.TrimSpace(line) != "ready" {
		v.Kill()
		return nil, fmt.Errorf("the victim did not start (%w): %q, %s", errors.Join(err, v.err), line, v.stderr.String())
	}
	return v, nil
}

// PID is the process.
func (v *Victim) PID() int { return v.cmd.Process.Pid }

// Log is what the process has written to its standard error.
func (v *Victim) Log() string { return v.stderr.String() }

// Exited is closed when the process has ended.
func (v *Victim) Exited() <-chan struct{} { return v.exited }

// Kill ends the process at once and waits for its end.
func (v *Victim) Kill() {
	_ = v.cmd.Process.Kill()
	<-v.exited
	_ = v.stdin.Close()
}

// Settle says that the cluster's first start is complete, and returns when
// what has been written until now is said to be on the disk.
func (v *Victim) Settle() error {
	_ = v.cmd.Process.Signal(syscall.SIGUSR1)
	select {
	case <-v.settled:
		return nil
	case <-v.exited:
	case <-time.After(30 * time.Second):
	}
	return fmt.Errorf("the first start did not come to an end: %s", v.stderr.String())
}

// Stop ends the process as systemd would.
func (v *Victim) Stop() error {
	_ = v.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-v.exited:
	case <-time.After(30 * time.Second):
		v.Kill()
		return fmt.Errorf("the victim did not stop in 30 s: %s", v.stderr.String())
	}
	_ = v.stdin.Close()
	if v.err != nil {
		return fmt.Errorf("the victim stopped with %w: %s", v.err, v.stderr.String())
	}
	return nil
}

// Client connects to the datastore behind a socket.
func Client(socket string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints:   []string{"unix://" + socket},
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
}

// syncBuffer keeps the end of what a process says.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buf.Len() > 1<<20 {
		b.buf.Reset()
	}
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
