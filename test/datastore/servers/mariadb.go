package servers

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/go-sql-driver/mysql"
)

// mariadb is Debian's MariaDB, of which mariadb-server-core is enough: the
// server without a service.
type mariadb struct{}

var _ kind = mariadb{}

const mariadbd = "/usr/sbin/mariadbd"

func (mariadb) args(s *Server) []string {
	return []string{
		"--no-defaults", "--datadir=" + s.path("data"), "--tmpdir=" + s.dir, "--skip-name-resolve", "--performance-schema=off",
		"--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M",
		// A crash of the server loses nothing, one of the machine may.
		"--innodb-flush-log-at-trx-commit=2",
	}
}

// create does what mariadb-install-db does, which wants more packages.
func (m mariadb) create(s *Server) error {
	script := []byte("CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\nSET @skip_auth_anonymous=1;\n")
	for _, name := range []string{"mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql"} {
		b, err := os.ReadFile("/usr/share/mysql/" + name)
		if err != nil {
			return fmt.Errorf("read MariaDB's system tables: %w (scripts/needs.sh installs them)", err)
		}
		script = bytes.Join([][]byte{script, b}, []byte("\n"))
	}
	script = fmt.Appendf(script, "\nFLUSH PRIVILEGES;\nCREATE USER '%s'@'%%' IDENTIFIED BY '%s';\nGRANT ALL PRIVILEGES ON *.* TO '%s'@'%%' WITH GRANT OPTION;\n", User, Password, User)
	if err := s.run(nil, "/bin/mkdir", s.path("data")); err != nil {
		return err
	}
	return s.run(script, mariadbd, append(m.args(s), "--bootstrap")...)
}

func (m mariadb) command(s *Server) *exec.Cmd {
	return exec.Command(mariadbd, append(m.args(s), "--socket="+s.path("socket"), "--pid-file="+s.path("pid"),
		"--bind-address=127.0.0.1", "--port="+strconv.Itoa(s.port))...)
}

func (mariadb) stopSignal() syscall.Signal { return syscall.SIGTERM }

func (mariadb) endpoint(address, database string) string {
	return "mysql://" + User + ":" + Password + "@tcp(" + address + ")/" + database
}

func (mariadb) open(s *Server) (*sql.DB, error) {
	c := mysql.NewConfig()
	c.User, c.Passwd, c.Net, c.Addr = User, Password, "tcp", s.Address()
	c.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

func (mariadb) drop(ctx context.Context, db *sql.DB, database string) error {
	_, err := db.ExecContext(ctx, "DROP DATABASE IF EXISTS "+database)
	return err
}
