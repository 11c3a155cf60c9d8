// Package script runs the built executable through the txtar scripts in
// testdata: what a person sees of the command line, the configuration and the
// checks before a start. No script gets as far as starting a component. It
// knows nothing of skiff's inside but the lock. Start reading in testdata.
package script

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"skiff/internal/lockfile"
)

// binary is the executable under test: $SKIFF_BIN, else what make built.
func binary(t *testing.T) string {
	t.Helper()
	path, given := os.LookupEnv("SKIFF_BIN")
	if !given {
		path = filepath.Join("..", "..", "bin", "skiff")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		if given {
			t.Fatalf("SKIFF_BIN: %v", err)
		}
		t.Skipf("%v; run make first", err)
	}
	return path
}

func TestScripts(t *testing.T) {
	skiff := binary(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			// Scripts call "skiff", whatever the file under test is called.
			bin := filepath.Join(env.WorkDir, ".bin")
			if err := os.Mkdir(bin, 0o755); err != nil {
				return err
			}
			if err := os.Symlink(skiff, filepath.Join(bin, "skiff")); err != nil {
				return err
			}
			env.Setenv("BIN", bin)
			env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
			// A configuration of the machine must not reach the tests.
			env.Setenv("SKIFF_CONFIG_FILE", filepath.Join(env.WorkDir, "config.yaml"))
			return os.WriteFile(filepath.Join(env.WorkDir, "config.yaml"), nil, 0o600)
		},
		Condition: func(cond string) (bool, error) {
			return cond == "root" && os.Geteuid() == 0, nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"listen": listen,
			"lock":   lock,
		},
	})
}

// listen VARIABLE opens a TCP port for the rest of the script, and puts its
// number in the variable.
func listen(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: listen VARIABLE")
	}
	l, err := net.Listen("tcp", "0.0.0.0:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	_, port, ok := strings.Cut(l.Addr().String(), "]:")
	if !ok {
		_, port, _ = strings.Cut(l.Addr().String(), ":")
	}
	ts.Setenv(args[0], port)
}

// lock FILE VARIABLE takes a skiff lock for the rest of the script, and puts
// the number of the process that has it in the variable.
func lock(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: lock FILE VARIABLE")
	}
	file := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(file), 0o755))
	l, err := lockfile.Acquire(file)
	ts.Check(err)
	ts.Defer(func() { ts.Check(l.Release()) })
	ts.Setenv(args[1], strconv.Itoa(os.Getpid()))
}
