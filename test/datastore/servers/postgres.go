package servers

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// postgres is Debian's PostgreSQL, which is not in the PATH.
type postgres struct{}

var _ kind = postgres{}

func (postgres) program(name string) (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("no PostgreSQL server below /usr/lib/postgresql: %w (scripts/needs.sh installs it)", errors.Join(err, os.ErrNotExist))
	}
	return slices.Max(found), nil
}

func (p postgres) create(s *Server) error {
	initdb, err := p.program("initdb")
	if err != nil {
		return err
	}
	secret := s.path("password")
	if err := os.WriteFile(secret, []byte(Password), 0o644); err != nil {
		return err
	}
	return s.run(nil, initdb, "-D", s.path("data"), "-U", User, "--pwfile", secret, "-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--no-sync")
}

func (p postgres) command(s *Server) *exec.Cmd {
	program, err := p.program("postgres")
	if err != nil {
		program = "postgres" // Fails with a clear message.
	}
	return exec.Command(program, "-D", s.path("data"), "-p", strconv.Itoa(s.port), "-h", "127.0.0.1", "-k", s.dir,
		"-c", "fsync=off", "-c", "shared_buffers=32MB", "-c", "max_connections=400", "-c", "autovacuum_naptime=5s")
}

// stopSignal is Postgres' fast shutdown: transactions are rolled back.
func (postgres) stopSignal() syscall.Signal { return syscall.SIGINT }

func (postgres) endpoint(address, database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(User, Password), Host: address, Path: database}
	return u.String()
}

func (p postgres) open(s *Server) (*sql.DB, error) {
	config, err := pgx.ParseConfig(p.endpoint(s.Address(), "postgres"))
	if err != nil {
		return nil, err
	}
	return stdlib.OpenDB(*config), nil
}

func (postgres) drop(ctx context.Context, db *sql.DB, database string) error {
	_, err := db.ExecContext(ctx, "DROP DATABASE IF EXISTS "+database+" WITH (FORCE)")
	return err
}
