package servers

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// User and Password are those of the servers' only user.
const (
	User     = "skiff"
	Password = "not+so:secret"

	startTimeout = time.Minute
	stopTimeout  = 20 * time.Second
)

// kind is a brand of database server.
type kind interface {
	// create makes an empty data directory.
	create(s *Server) error
	// command runs the server in the foreground.
	command(s *Server) *exec.Cmd
	// stopSignal ends it quickly and cleanly.
	stopSignal() syscall.Signal
	// endpoint is what skiff is told.
	endpoint(address, database string) string
	// open connects as the administrator.
	open(s *Server) (*sql.DB, error)
	// drop removes a database that may be in use.
	drop(ctx context.Context, db *sql.DB, database string) error
}

// Server is one database server.
type Server struct {
	kind      kind
	dir       string
	port      int
	databases atomic.Int32

	cmd    *exec.Cmd
	exited chan struct{}
}

// NewPostgres starts a PostgreSQL that only t uses.
func NewPostgres(t testing.TB) *Server { t.Helper(); return newServer(t, postgres{}) }

// NewMySQL starts a MariaDB that only t uses.
func NewMySQL(t testing.TB) *Server { t.Helper(); return newServer(t, mariadb{}) }

func newServer(t testing.TB, k kind) *Server {
	t.Helper()
	s, err := create(k)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.log())
		}
		if err := s.destroy(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// create makes a data directory and starts a server in it.
func create(k kind) (s *Server, err error) {
	dir, err := os.MkdirTemp("", "skiff-database-")
	if err != nil {
		return nil, err
	}
	s = &Server{kind: k, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.destroy())
		}
	}()
	if c := credential(); c != nil {
		if err := os.Chown(dir, int(c.Uid), int(c.Gid)); err != nil {
			return nil, err
		}
	}
	if s.port, err = freePort(); err != nil {
		return nil, err
	}
	if err := k.create(s); err != nil {
		return nil, err
	}
	return s, s.start()
}

// Address is where the server listens; it stays the same.
func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Database returns the datastore endpoint of a database that does not exist
// yet, and removes it when t ends.
func (s *Server) Database(t testing.TB) (endpoint string) {
	t.Helper()
	return s.DatabaseAt(t, s.Address())
}

// DatabaseAt is Database, reached by another address such as a proxy's.
func (s *Server) DatabaseAt(t testing.TB, address string) (endpoint string) {
	t.Helper()
	name := fmt.Sprintf("skiff_%d", s.databases.Add(1))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		db, err := s.kind.open(s)
		if err == nil {
			defer func() { _ = db.Close() }()
			err = s.kind.drop(ctx, db, name)
		}
		if err != nil && s.running() {
			t.Errorf("remove database %s: %v", name, err)
		}
	})
	return s.kind.endpoint(address, name)
}

// Start starts a server that has been stopped.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
}

// Stop ends the server; connections break, nothing is lost.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if err := s.stop(s.kind.stopSignal()); err != nil {
		t.Fatal(err)
	}
}

// Admin connects to the server, to look at what is there.
func (s *Server) Admin(t testing.TB) *sql.DB {
	t.Helper()
	db, err := s.kind.open(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// start starts the server. One that was killed may have left processes that
// take a moment to notice, and does not start beside them.
func (s *Server) start() error {
	limit := time.Now().Add(stopTimeout)
	for {
		err := s.tryStart()
		if err == nil || s.cmd == nil || s.running() || time.Now().After(limit) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (s *Server) tryStart() error {
	logFile, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = logFile.Close() }()
	cmd := s.kind.command(s)
	s.confine(cmd)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w (scripts/needs.sh installs it)", cmd.Path, err)
	}
	exited := make(chan struct{})
	s.cmd, s.exited = cmd, exited
	go func() {
		_ = cmd.Wait() // How it ended stands in its log.
		close(exited)
	}()
	return s.await()
}

// await waits until the server answers.
func (s *Server) await() error {
	db, err := s.kind.open(s)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		err := db.PingContext(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("%s has ended: %w\n%s", s.cmd.Path, err, s.log())
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w\n%s", s.cmd.Path, err, s.log())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *Server) running() bool {
	if s.cmd == nil {
		return false
	}
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

func (s *Server) stop(sig syscall.Signal) error {
	if !s.running() {
		return nil
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		return err
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(stopTimeout):
		err := fmt.Errorf("%s did not stop in %v\n%s", s.cmd.Path, stopTimeout, s.log())
		err = errors.Join(err, s.cmd.Process.Kill())
		<-s.exited
		return err
	}
}

func (s *Server) destroy() error {
	return errors.Join(s.stop(s.kind.stopSignal()), os.RemoveAll(s.dir))
}

func (s *Server) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *Server) log() []byte {
	b, _ := os.ReadFile(s.path("log"))
	return b[max(0, len(b)-8000):]
}

// run runs a preparing command to its end.
func (s *Server) run(stdin []byte, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	s.confine(cmd)
	cmd.Stdin = bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w (scripts/needs.sh installs it)\n%s", name, err, out[max(0, len(out)-4000):])
	}
	return nil
}

// confine makes a command run unprivileged, and end with this process.
func (s *Server) confine(cmd *exec.Cmd) {
	cmd.Dir = s.dir
	cmd.Env = []string{"LC_ALL=C.UTF-8", "TZ=UTC", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + s.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true, Credential: credential()}
}

// Owner is the user and group that the servers run as.
func Owner() (uid, gid int) {
	if c := credential(); c != nil {
		return int(c.Uid), int(c.Gid)
	}
	return os.Getuid(), os.Getgid()
}

// credential is nobody's, if this process is root: PostgreSQL refuses root.
func credential() *syscall.Credential {
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		return nil
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// freePort finds a port that nobody has right now.
func freePort() (int, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}
