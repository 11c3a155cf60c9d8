// Package servers starts real database servers for tests: Debian's PostgreSQL
// and MariaDB, on ports and in directories of their own, as an unprivileged
// user. It knows nothing about what the databases are used for. Start reading
// at Postgres and MySQL, which most tests want; Server is for those that stop
// and start one. A package that calls them often has a TestMain that calls
// Main, so that its tests share the servers.
package servers

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// Postgres returns the datastore endpoint of an empty database on a running
// PostgreSQL. The database is removed when t ends.
func Postgres(t testing.TB) (endpoint string) {
	t.Helper()
	return shared.postgres.use(t).Database(t)
}

// MySQL returns the datastore endpoint of an empty database on a running
// MariaDB. The database is removed when t ends.
func MySQL(t testing.TB) (endpoint string) {
	t.Helper()
	return shared.mysql.use(t).Database(t)
}

// Main runs a package's tests and stops the servers only after the last one.
//
//	func TestMain(m *testing.M) { os.Exit(servers.Main(m)) }
func Main(m *testing.M) int {
	shared.keep.Store(true)
	code := m.Run()
	for _, h := range []*held{&shared.postgres, &shared.mysql} {
		if err := h.end(); err != nil {
			fmt.Println("stop a database server:", err)
			code = max(code, 1)
		}
	}
	return code
}

// shared are the servers that the tests of one process have in common. They
// also end with the process, however that ends.
var shared = struct {
	keep            atomic.Bool // Main is there to end them
	postgres, mysql held
}{postgres: held{kind: postgres{}}, mysql: held{kind: mariadb{}}}

// held is a server that runs while it has users.
type held struct {
	kind kind

	mu     sync.Mutex
	users  int
	server *Server
}

// use returns the server until t ends.
func (h *held) use(t testing.TB) *Server {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.server == nil {
		s, err := create(h.kind)
		if err != nil {
			t.Fatal(err)
		}
		h.server = s
	}
	h.users++
	t.Cleanup(func() {
		h.mu.Lock()
		h.users--
		last := h.users == 0 && !shared.keep.Load()
		h.mu.Unlock()
		if last {
			if err := h.end(); err != nil {
				t.Error(err)
			}
		}
	})
	return h.server
}

func (h *held) end() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.server == nil {
		return nil
	}
	s := h.server
	h.server = nil
	return s.destroy()
}
