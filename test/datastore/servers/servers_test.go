package servers_test

import (
	"os"
	"testing"

	"skiff/test/datastore/servers"
)

func TestMain(m *testing.M) { os.Exit(servers.Main(m)) }

func TestServersStopAndStart(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *servers.Server{"postgres": servers.NewPostgres, "mysql": servers.NewMySQL} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			db := s.Admin(t)
			if _, err := db.ExecContext(t.Context(), "CREATE DATABASE kept"); err != nil {
				t.Fatal(err)
			}
			s.Stop(t)
			if err := db.PingContext(t.Context()); err == nil {
				t.Error("a stopped server answers")
			}
			s.Start(t)
			s.Kill(t)
			s.Start(t)
			if _, err := db.ExecContext(t.Context(), "CREATE DATABASE kept"); err == nil {
				t.Error("the database was gone after a restart")
			}
		})
	}
}
