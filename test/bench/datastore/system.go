package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// system is a store and how it is started.
type system struct {
	name    string
	command func(dir, socket string) ([]string, error)
	wal     string // glob of the write-ahead log below the directory
}

func systems(o options) []system {
	serve := func(role ...string) func(dir, socket string) ([]string, error) {
		return func(dir, socket string) ([]string, error) {
			return append([]string{o.serve, "-dir", dir, "-socket", socket}, role...), nil
		}
	}
	etcd := func(dir, socket string) ([]string, error) { return etcdCommand(o.etcd, dir, socket) }
	all := []system{
		{"etcd", etcd, "member/wal/*"},
		{"kine", serve("kine"), "state.db-wal"},
		{"ours", serve("ours"), "state.db-wal"},
	}
	for _, d := range o.extra {
		all = append(all, system{"ours-" + d, serve("-durability", d, "ours"), "state.db-wal"})
	}
	return all
}

// etcdCommand has kubeadm's flags. Two things make it faster than there: the
// clients come without TLS, by a unix socket like those of the others, and
// gRPC has its listener to itself, as in K3s.
func etcdCommand(path, dir, socket string) ([]string, error) {
	var urls [2]string
	for i := range urls {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a port for etcd: %w", err)
		}
		urls[i] = "http://" + l.Addr().String()
		if err := l.Close(); err != nil {
			return nil, err
		}
	}
	peer, health := urls[0], urls[1]
	return []string{
		path, "--name=bench", "--data-dir=" + dir, "--log-level=warn", "--log-outputs=stderr",
		"--listen-client-urls=unix://" + socket, "--advertise-client-urls=" + health, "--listen-client-http-urls=" + health,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=bench=" + peer,
		"--snapshot-count=10000", "--watch-progress-notify-interval=5s", "--feature-gates=InitialCorruptCheck=true",
	}, nil
}

// server is a running store.
type server struct {
	cmd     *exec.Cmd
	ready   time.Duration // from exec to the first answer
	socket  string
	log     *os.File
	stdin   io.WriteCloser
	answers *bufio.Scanner
	exited  chan error
	sent    atomic.Int64 // bytes that clients have received
	polling chan struct{}
	poller  sync.WaitGroup
	wal     atomic.Int64 // largest size seen
	again   func(context.Context) (*server, error)
	data    string
	closers []func()
}

// start runs s in dir and waits for its first answer. The socket is made
// elsewhere, because its path has to be short.
func (s system) start(ctx context.Context, dir string) (*server, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create database directory: %w", err)
	}
	short, err := os.MkdirTemp("", "dsbench")
	if err != nil {
		return nil, fmt.Errorf("create directory for the socket: %w", err)
	}
	r := &server{data: dir, socket: filepath.Join(short, "s"), exited: make(chan error, 1), polling: make(chan struct{})}
	r.again = func(ctx context.Context) (*server, error) { return s.start(ctx, dir) }
	args, err := s.command(dir, r.socket)
	if err != nil {
		return nil, err
	}
	if r.log, err = os.Create(dir + ".log"); err != nil {
		return nil, fmt.Errorf("create log file: %w", err)
	}
	r.cmd = exec.Command(args[0], args[1:]...)
	r.cmd.Stderr = r.log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.answers = bufio.NewScanner(stdout)
	begin := time.Now()
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s (make bench-datastore builds it): %w", s.name, err)
	}
	go func() { r.exited <- r.cmd.Wait() }()
	r.poller.Go(func() { r.watchWAL(filepath.Join(dir, s.wal)) })
	if err := r.await(ctx); err != nil {
		err = fmt.Errorf("%w\n%s", err, r.lastLog())
		r.kill()
		return nil, err
	}
	r.ready = time.Since(begin)
	return r, nil
}

// await returns once a read is answered.
func (r *server) await(ctx context.Context) error {
	limit := time.Now().Add(time.Minute)
	for {
		c, err := net.Dial("unix", r.socket) // gRPC would wait a second before it tries again
		if err == nil {
			c.Close()
			break
		}
		select {
		case err := <-r.exited:
			r.exited <- err
			return fmt.Errorf("the store has ended before it was ready: %w", cmp.Or(err, errors.New("no error")))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(limit) {
			return errors.New("the store does not listen after a minute")
		}
	}
	c, err := r.dial()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithDeadline(ctx, limit)
	defer cancel()
	if _, err := c.get(ctx, "/registry/health"); err != nil {
		return fmt.Errorf("first read: %w", err)
	}
	return nil
}

// watchWAL notes the largest size of the files that match glob, added up.
func (r *server) watchWAL(glob string) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var size int64
		names, _ := filepath.Glob(glob) // the pattern is ours
		for _, n := range names {
			if fi, err := os.Stat(n); err == nil {
				size += fi.Size()
			}
		}
		r.wal.Store(max(r.wal.Load(), size))
		select {
		case <-r.polling:
			return
		case <-tick.C:
		}
	}
}

// databaseSize is what the database occupies on disk, in MB.
func (r *server) databaseSize() (float64, error) {
	var size int64
	err := filepath.WalkDir(r.data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			return fmt.Errorf("look at %s: %w", path, err)
		}
		size += st.Blocks * 512
		return nil
	})
	return float64(size) / 1e6, err
}

func (r *server) walMax() int64 { return r.wal.Load() }

// disconnect closes the clients' connections.
func (r *server) disconnect() {
	for _, c := range r.closers {
		c()
	}
	r.closers = nil
}

// stop ends the store in good order.
func (r *server) stop() error {
	r.disconnect()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the store: %w", err)
	}
	defer r.kill()
	select {
	case err := <-r.exited:
		r.exited <- err
		// etcd ends itself by the signal it was sent.
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("the store has stopped with %w\n%s", err, r.lastLog())
		}
		return nil
	case <-time.After(time.Minute):
		return fmt.Errorf("the store has not stopped after a minute\n%s", r.lastLog())
	}
}

// kill ends the store if it still runs, and frees what belongs to it.
func (r *server) kill() {
	r.disconnect()
	select {
	case <-r.polling: // second call
		return
	default:
		close(r.polling)
	}
	r.poller.Wait()
	_ = r.cmd.Process.Kill()
	<-r.exited
	r.stdin.Close()
	r.log.Close()
	os.RemoveAll(filepath.Dir(r.socket))
}

// lastLog is the end of what the store has written to standard error.
func (r *server) lastLog() string {
	b, _ := os.ReadFile(r.log.Name())
	return string(b[max(0, len(b)-2000):])
}

// ask sends one line to a store of ours (see serve) and waits for "ok".
func (r *server) ask(command string) error {
	if _, err := fmt.Fprintln(r.stdin, command); err != nil {
		return fmt.Errorf("tell the store %q: %w", command, err)
	}
	if !r.answers.Scan() || r.answers.Text() != "ok" {
		return fmt.Errorf("tell the store %q: %s", command, r.answers.Text())
	}
	return nil
}

// profiled runs f with a CPU profile of the store, if one is wanted and it is
// a program of ours.
func (b *bench) profiled(row string, f func() error) error {
	if b.profiles == "" || b.system.name == "etcd" {
		return f()
	}
	name, err := filepath.Abs(filepath.Join(b.profiles, fmt.Sprintf("%s-%s-%d", b.system.name, fileName(row), b.round+1)))
	if err != nil {
		return err
	}
	if err := b.ask("profile " + name + ".cpu.pb.gz"); err != nil {
		return err
	}
	err = f()
	return errors.Join(err, b.ask("stop"), b.ask("heap "+name+".allocs.pb.gz"))
}
