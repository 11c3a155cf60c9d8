package external_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"skiff/pkg/datastore"
	"skiff/test/datastore/servers"
)

// logBuffer is a log that a test can read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// try runs a datastore for a while, and returns its error and log.
func try(t *testing.T, endpoint string, d time.Duration) (string, string) {
	t.Helper()
	var log logBuffer
	ds, err := datastore.Open(datastore.Options{
		Endpoint: endpoint, Dir: t.TempDir(), Socket: filepath.Join(t.TempDir(), "s"), Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		return err.Error(), log.String()
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := ds.Run(ctx); err != nil {
		return err.Error(), log.String()
	}
	return "", log.String()
}

// TestErrorsOfOpening looks at what a person is told, and that no password is
// part of it.
func TestErrorsOfOpening(t *testing.T) {
	const secret = "hush%2Fhush"
	pg, my := servers.Postgres(t), servers.MySQL(t)
	with := func(endpoint, user string) string {
		_, rest, _ := strings.Cut(endpoint, "@")
		scheme, _, _ := strings.Cut(endpoint, "://")
		password := secret
		if scheme == "mysql" {
			password = "hush/hush"
		}
		return scheme + "://" + user + ":" + password + "@" + rest
	}
	other := func(endpoint, database string) string {
		return endpoint[:strings.LastIndex(endpoint, "/")+1] + database
	}
	pgDB, myDB := connect(t, other(pg, "postgres")), connect(t, other(my, "mysql"))
	for _, sql := range []string{"CREATE ROLE poor LOGIN PASSWORD 'hush/hush'", "CREATE DATABASE closed"} {
		must(pgDB.ExecContext(t.Context(), sql))(t)
	}
	must(myDB.ExecContext(t.Context(), "CREATE USER poor IDENTIFIED BY 'hush/hush'"))(t)

	for name, c := range map[string]struct{ endpoint, want string }{
		"postgres, wrong password": {with(pg, servers.User), "the server refuses the user skiff: check user and password"},
		"postgres, no database":    {with(pg, "poor"), "there is no such database, and it cannot be created"},
		"postgres, no permission":  {other(with(pg, "poor"), "closed"), "GRANT ALL ON SCHEMA public"},
		"postgres, not a URL":      {"postgres://user:" + secret + "@host:port:1/db", "the endpoint is not of the form postgres://"},
		"mysql, wrong password":    {with(my, servers.User), "the server refuses the user skiff: check user and password"},
		"mysql, no permission":     {with(my, "poor"), "GRANT ALL PRIVILEGES"},
		"mysql, not a DSN":         {"mysql://user:" + secret + "@tcp(host:3306", "the endpoint is not of the form mysql://"},
	} {
		t.Run(name, func(t *testing.T) {
			got, log := try(t, c.endpoint, 5*time.Second)
			if !strings.Contains(got, c.want) {
				t.Errorf("the error is %q\nwant one with %q; log:\n%s", got, c.want, log)
			}
			t.Log(got)
			for _, password := range []string{secret, "hush/hush", "hush"} {
				if strings.Contains(got+log, password) {
					t.Errorf("the password is in %q or\n%s", got, log)
				}
			}
		})
	}
}

// TestServerComesLater starts skiff before its database, as after a power cut.
func TestServerComesLater(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *servers.Server{"postgres": servers.NewPostgres, "mysql": servers.NewMySQL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			endpoint := s.Database(t)
			s.Stop(t)
			var log logBuffer
			ds, err := datastore.Open(datastore.Options{
				Endpoint: endpoint, Dir: t.TempDir(), Socket: filepath.Join(t.TempDir(), "s"), Logger: slog.New(slog.NewTextHandler(&log, nil)),
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- ds.Run(ctx) }()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			eventually(t, 10*time.Second, func() error {
				if !strings.Contains(log.String(), "waiting for the database server") {
					return fmt.Errorf("nobody says what is waited for: %s", log.String())
				}
				return nil
			})
			if err := ds.Ready(ctx); err == nil {
				t.Error("ready without a database")
			}
			s.Start(t)
			took := eventually(t, 10*time.Second, func() error { return ds.Ready(ctx) })
			t.Logf("ready %v after the database", took)
			if strings.Contains(log.String(), servers.Password) {
				t.Errorf("the password is in the log:\n%s", log.String())
			}
		})
	}
}
