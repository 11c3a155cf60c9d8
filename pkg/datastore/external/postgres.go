package external

import (
	"context"
	"crypto/tls"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/pgsql"
	"golang.org/x/sys/unix"

	"skiff/pkg/datastore/bridge"
	"skiff/pkg/datastore/shared"
)

const (
	// defaultDatabase is kine's, for an endpoint that names none.
	defaultDatabase = "kubernetes"
	postgresForm    = "the endpoint is not of the form postgres://user:password@host:port/database; special characters in the password are written as %xx"
)

// NewPostgres serves the Postgres database at dsn ("user:password@host/db",
// without scheme) on socket.
func NewPostgres(dsn string, files TLS, socket string, logger *slog.Logger) *bridge.Bridge {
	return newSQL(&postgres{dsn: dsn, files: files}, files, dsn, socket, logger, func(err error) error {
		return redact(err, dsn, postgresPassword(dsn))
	})
}

// postgres is a database on a PostgreSQL server.
type postgres struct {
	dsn    string
	files  TLS
	config *pgx.ConnConfig // set by open
}

var _ database = (*postgres)(nil)

func (p *postgres) open() (*sql.DB, error) {
	var err error
	if p.config, err = postgresConfig(p.dsn, p.files); err != nil {
		return nil, err
	}
	return stdlib.OpenDB(*p.config,
		stdlib.OptionResetSession(alive),
		stdlib.OptionShouldPing(func(context.Context, stdlib.ShouldPingParams) bool { return false }),
	), nil
}

// alive looks whether the server has ended an idle connection, before a
// statement is sent by it. That a write failed for that reason would look as if
// it might have happened. It costs no exchange, as the driver's ping does.
func alive(_ context.Context, c *pgx.Conn) error {
	conn := c.PgConn().Conn()
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	sock, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return driver.ErrBadConn
	}
	// Not by raw.Read, which waits for a reader that the driver may have left
	// in the background.
	var peek error
	err = raw.Control(func(fd uintptr) {
		_, _, peek = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	if err != nil || !errors.Is(peek, unix.EAGAIN) {
		return driver.ErrBadConn // The end, or a last message.
	}
	return nil
}

// postgresConfig reads an endpoint as kine does, so that both mean the same
// database.
func postgresConfig(dsn string, files TLS) (*pgx.ConnConfig, error) {
	u, err := url.Parse("postgres://" + dsn)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", postgresForm, err)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/" + defaultDatabase
	}
	u.Path = strings.ToLower(u.Path)
	params := u.Query()
	for key, file := range map[string]string{"sslcert": files.CertFile, "sslkey": files.KeyFile, "sslrootcert": files.CAFile} {
		if file != "" && !params.Has(key) {
			params.Set(key, file)
			if !u.Query().Has("sslmode") {
				params.Set("sslmode", "verify-full")
			}
		}
	}
	u.RawQuery = params.Encode()
	config, err := pgx.ParseConfig(u.String())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", postgresForm, err)
	}
	config.DialFunc = dialer().DialContext
	return config, nil
}

func postgresPassword(dsn string) string {
	u, err := url.Parse("postgres://" + dsn)
	if err != nil {
		return ""
	}
	password, _ := u.User.Password()
	return password
}

func (p *postgres) where() string {
	if p.config == nil {
		return "the Postgres database"
	}
	return fmt.Sprintf("the Postgres database %s at %s", p.config.Database, net.JoinHostPort(p.config.Host, strconv.Itoa(int(p.config.Port))))
}

func (p *postgres) explain(err error) problem {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code {
		case "28P01", "28000":
			return problem{advice: fmt.Sprintf("the server refuses the user %s: check user and password", p.config.User), fatal: true}
		case "3D000":
			return problem{missing: true, fatal: true}
		case "42501":
			return problem{advice: fmt.Sprintf("the user %s may not do that: GRANT ALL ON SCHEMA public TO it, or make it the owner of the database", p.config.User), fatal: true}
		}
		switch e.Code[:2] {
		case "53", "57", "08", "55":
			return problem{} // busy, starting or stopping
		}
		return problem{fatal: true}
	}
	return connectAdvice(err)
}

func (p *postgres) create(ctx context.Context) error {
	config := p.config.Copy()
	config.Database = "postgres"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{p.config.Database}.Sanitize())
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && (e.Code == "42P04" || e.Code == "23505") {
		return nil // Another server was quicker.
	}
	return err
}

func (p *postgres) schema(ctx context.Context, wg *sync.WaitGroup, cfg *drivers.Config) error {
	_, _, err := pgsql.New(ctx, wg, cfg)
	return err
}

func (p *postgres) options(_ context.Context, _ *sql.DB, _ bool, o *shared.Options) error {
	o.Dialect = shared.Postgres()
	o.Listen = shared.ListenPostgres(p.config)
	return nil
}

// redact makes sure that neither the endpoint nor its password is in an
// error's text.
func redact(err error, dsn, password string) error {
	text := strings.ReplaceAll(err.Error(), dsn, "…")
	user, _, _ := strings.Cut(dsn, "@")
	_, written, _ := strings.Cut(user, ":")
	for _, secret := range []string{written, password, url.QueryEscape(password)} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "…")
		}
	}
	if text == err.Error() {
		return err
	}
	return scrub{error: err, text: text}
}
