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
	"strings"
	"sync"

	"github.com/go-sql-driver/mysql"
	"github.com/k3s-io/kine/pkg/drivers"
	kinemysql "github.com/k3s-io/kine/pkg/drivers/mysql"
	kinetls "github.com/k3s-io/kine/pkg/tls"

	"skiff/pkg/datastore/bridge"
	"skiff/pkg/datastore/shared"
)

// NewMySQL serves the MySQL or MariaDB database at dsn
// ("user:password@tcp(host:3306)/db", without scheme) on socket.
func NewMySQL(dsn string, files TLS, socket string, logger *slog.Logger) *bridge.Bridge {
	password := ""
	if c, err := mysql.ParseDSN(dsn); err == nil {
		password = c.Passwd
	}
	return newSQL(&mariadb{dsn: dsn, files: files, logger: logger}, files, dsn, socket, logger, func(err error) error {
		return redact(err, dsn, password)
	})
}

// mariadb is a database on a MySQL or MariaDB server.
type mariadb struct {
	dsn    string
	files  TLS
	logger *slog.Logger
	config *mysql.Config // set by open
}

var _ database = (*mariadb)(nil)

func (m *mariadb) open() (*sql.DB, error) {
	config, err := mysql.ParseDSN(m.dsn)
	if err != nil {
		return nil, fmt.Errorf("the endpoint is not of the form mysql://user:password@tcp(host:port)/database: %w", err)
	}
	if config.DBName == "" {
		config.DBName = defaultDatabase
	}
	tlsConfig, err := kinetls.Config{CAFile: m.files.CAFile, CertFile: m.files.CertFile, KeyFile: m.files.KeyFile}.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read the TLS files: %w", err)
	}
	if tlsConfig != nil {
		tlsConfig.MinVersion = tls.VersionTLS12
		config.TLS = tlsConfig
	}
	// One exchange for a statement, not three. What is sent is ASCII and
	// quoted blobs.
	config.InterpolateParams = true
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialer().DialContext(ctx, network, address)
	}
	config.Logger = driverLog{m.logger}
	m.config = config
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(&readCommitted{connector}), nil
}

func (m *mariadb) where() string {
	if m.config == nil {
		return "the MySQL database"
	}
	return fmt.Sprintf("the MySQL database %s at %s", m.config.DBName, m.config.Addr)
}

func (m *mariadb) explain(err error) problem {
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		switch e.Number {
		case 1045, 1698:
			return problem{advice: fmt.Sprintf("the server refuses the user %s: check user and password", m.config.User), fatal: true}
		case 1044, 1142, 1227:
			return problem{advice: fmt.Sprintf("the user %s may not do that: GRANT ALL PRIVILEGES ON %s.* TO it", m.config.User, m.config.DBName), fatal: true}
		case 1049:
			return problem{missing: true, fatal: true}
		case 1040, 1053, 1203, 1226, 1927:
			return problem{} // busy or stopping
		}
		return problem{fatal: true}
	}
	return connectAdvice(err)
}

func (m *mariadb) create(ctx context.Context) error {
	config := m.config.Clone()
	config.DBName = ""
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer func() { _ = db.Close() }()
	_, err = db.ExecContext(ctx, "CREATE DATABASE IF NOT EXISTS `"+strings.ReplaceAll(m.config.DBName, "`", "``")+"`")
	return err
}

func (m *mariadb) schema(ctx context.Context, wg *sync.WaitGroup, cfg *drivers.Config) error {
	_, _, err := kinemysql.New(ctx, wg, cfg)
	return err
}

// options makes names in a new table differ by case. In kine's they do not,
// and RBAC's names, for one, may differ in nothing else.
func (m *mariadb) options(ctx context.Context, db *sql.DB, fresh bool, o *shared.Options) error {
	if fresh {
		const alter = `ALTER TABLE kine MODIFY COLUMN name VARCHAR(630) CHARACTER SET ascii COLLATE ascii_bin`
		if _, err := db.ExecContext(ctx, alter); err != nil {
			return fmt.Errorf("make keys differ by case: %w", err)
		}
	}
	var version, format string
	var logged bool
	if err := db.QueryRowContext(ctx, `SELECT VERSION(), @@GLOBAL.log_bin, @@SESSION.binlog_format`).Scan(&version, &logged, &format); err != nil {
		return fmt.Errorf("ask for the server's version: %w", err)
	}
	if logged && format == "STATEMENT" {
		return errors.New("the server's binlog_format is STATEMENT, with which it refuses concurrent writers: set it to MIXED or ROW")
	}
	o.Dialect = shared.MySQL(strings.Contains(version, "MariaDB"))
	return nil
}

// readCommitted opens connections whose statements do not lock the gaps
// between keys: writers of neighbouring keys would stop each other. Where the
// server gives out every second or third number only, as in a cluster, it is
// asked for all, if the user may ask: each missing one has to be waited for.
type readCommitted struct{ driver.Connector }

// Connect implements driver.Connector.
func (r *readCommitted) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := r.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	const set = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
	if _, err := conn.(driver.ExecerContext).ExecContext(ctx, set, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("set the isolation level: %w", err), conn.Close())
	}
	_, err = conn.(driver.ExecerContext).ExecContext(ctx, "SET SESSION auto_increment_increment = 1, SESSION auto_increment_offset = 1", nil)
	if _, refused := errors.AsType[*mysql.MySQLError](err); err != nil && !refused {
		return nil, errors.Join(fmt.Errorf("set the numbering: %w", err), conn.Close())
	}
	return conn, nil
}

// driverLog takes what the driver says of connections that break; the errors
// come back by themselves.
type driverLog struct{ logger *slog.Logger }

// Print implements mysql.Logger.
func (d driverLog) Print(v ...any) { d.logger.Debug("database driver", "message", fmt.Sprint(v...)) }
