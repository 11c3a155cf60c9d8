package upgrade

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"skiff/internal/lockfile"
	"skiff/pkg/release"
)

// rootVar makes the test's executable a process that can be killed: one that
// installs, or the guard, on the machine in that directory.
const (
	rootVar = "UPGRADE_TEST_ROOT"
	workVar = "UPGRADE_TEST_WORK"
)

func TestMain(m *testing.M) {
	root := os.Getenv(rootVar)
	if root == "" {
		os.Exit(m.Run())
	}
	var err error
	if os.Getenv(workVar) == "guard" {
		err = machine(root).guard(nil).Run(context.Background())
	} else {
		err = machine(root).install()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

const (
	oldText   = "the executable of before"
	newText   = "the executable of after, which is another one"
	oldConfig = "node-label: [a=b]\n"
	newConfig = "node-label: [c=d]\n"
)

// machine is the root of what an upgrade changes.
type machine string

func (m machine) path(name string) string { return filepath.Join(string(m), name) }
func (m machine) dir() Dir                { return Dir(m.path("upgrade")) }
func (m machine) target() string          { return m.path("bin/skiff") }

// furnish makes a machine as it is before an upgrade.
func furnish(t *testing.T, root string) machine {
	t.Helper()
	m := machine(root)
	for _, dir := range []string{"bin", "etc/config.yaml.d", "upgrade"} {
		must(t, os.MkdirAll(m.path(dir), 0o755))
	}
	put(t, m.target(), oldText)
	put(t, m.path("etc/config.yaml"), oldConfig)
	put(t, m.path("etc/config.yaml.d/10.yaml"), oldConfig)
	signer, err := release.NewSigner()
	must(t, err)
	key, err := signer.Key()
	must(t, err)
	text, err := key.Text()
	must(t, err)
	put(t, m.path("key"), string(text))
	put(t, m.path("executable"), newText)
	in, err := os.Open(m.path("executable"))
	must(t, err)
	defer in.Close()
	var b bytes.Buffer
	must(t, release.Write(&b, release.Manifest{Version: "v1.36.4+skiff1", OS: "linux", Arch: runtime.GOARCH, Kubernetes: "v1.36.4", Schema: 1}, in, signer, release.Fast))
	put(t, m.path("new.skiff"), b.String())
	return m
}

func (m machine) installer() *Installer {
	return &Installer{
		Dir: m.dir(), Target: m.target(), Present: Release{"v1.36.3+skiff1", "v1.36.3", 1},
		Service: Service{Manager: Other, Socket: m.path("socket"), Lock: m.path("lock")},
		Config:  []string{m.path("etc/config.yaml"), m.path("etc/config.yaml.d"), m.path("etc/registries.yaml")},
		Suits:   func(Release) error { return nil },
		Snapshot: func(context.Context) (string, error) {
			return m.path("snapshot"), os.WriteFile(m.path("snapshot"), nil, 0o600)
		},
		Try:     func(context.Context, string, string) error { return nil },
		Confirm: func(release.Manifest) error { return nil },
		Limit:   time.Second, Settle: time.Millisecond,
		Say: func(string, ...any) {},
	}
}

func (m machine) install() error { return m.installWith(m.installer()) }

func (m machine) installWith(i *Installer) error {
	key, err := release.ReadKey(m.path("key"))
	if err != nil {
		return err
	}
	f, err := os.Open(m.path("new.skiff"))
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := release.Open(f, key)
	if err != nil {
		return err
	}
	return i.Install(context.Background(), r)
}

// guard counts how often it wants the new version watched.
func (m machine) guard(watched *int) *Guard {
	return &Guard{
		Dir:     m.dir(),
		Restore: func(context.Context, State) error { return os.WriteFile(m.path("restored"), nil, 0o600) },
		Watch: func(context.Context, State) error {
			if watched != nil {
				*watched++
			}
			return nil
		},
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func TestInstall(t *testing.T) {
	m := furnish(t, t.TempDir())
	must(t, m.install())
	m.want(t, Watched, newText)
	if get(t, m.dir().Previous()) != oldText {
		t.Error("the old executable was not kept")
	}
	if err := m.install(); err == nil || !strings.Contains(err.Error(), "not over yet") {
		t.Errorf("a second upgrade: %v", err)
	}
}

func TestInstallRefuses(t *testing.T) {
	failed := errors.New("no")
	tests := []struct {
		name   string
		change func(*Installer)
		want   string
	}{
		{"does not suit", func(i *Installer) { i.Suits = func(Release) error { return failed } }, "no"},
		{"the same", func(i *Installer) { i.Present.Version = "v1.36.4+skiff1" }, ErrSame.Error()},
		{"not confirmed", func(i *Installer) { i.Confirm = func(release.Manifest) error { return failed } }, "no"},
		{"no snapshot", func(i *Installer) { i.Snapshot = func(context.Context) (string, error) { return "", failed } }, "snapshot"},
		{"cannot be used", func(i *Installer) { i.Try = func(context.Context, string, string) error { return failed } }, "cannot be used here"},
		{"dry run", func(i *Installer) { i.DryRun = true }, ""},
		{"no executable", func(i *Installer) { i.Target = filepath.Join(filepath.Dir(i.Target), "other") }, "executable of the service"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := furnish(t, t.TempDir())
			i := m.installer()
			tt.change(i)
			err := m.installWith(i)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Install: %v, want %q", err, tt.want)
			}
			m.want(t, "", oldText)
			m.wantClean(t)
			if _, err := os.Stat(m.path("snapshot")); err == nil {
				t.Error("a snapshot is left of an upgrade that has not been")
			}
		})
	}
}

// The guard lets a version start three times, and then it is enough.
func TestGuardCounts(t *testing.T) {
	m := furnish(t, t.TempDir())
	must(t, m.install())
	put(t, m.path("etc/config.yaml"), newConfig)
	put(t, m.path("etc/config.yaml.d/20.yaml"), newConfig)
	put(t, m.path("etc/registries.yaml"), newConfig)
	watched := 0
	for range maxStarts {
		must(t, m.guard(&watched).Run(t.Context()))
		m.want(t, Watched, newText)
	}
	if watched != maxStarts {
		t.Errorf("a watcher was started %d times, want at each start where there is none", watched)
	}
	must(t, m.guard(&watched).Run(t.Context()))
	s := m.want(t, RolledBack, oldText)
	if !strings.Contains(s.Reason, "started 3 times") || !strings.Contains(s.Note(), "rolled back") {
		t.Errorf("the reason is %q, the note %q", s.Reason, s.Note())
	}
	m.wantClean(t)
	for name, want := range map[string]string{
		"config.yaml": oldConfig, "config.yaml.v1.36.4+skiff1": newConfig, "config.yaml.d/20.yaml.v1.36.4+skiff1": newConfig,
		"registries.yaml.v1.36.4+skiff1": newConfig, "config.yaml.d/10.yaml": oldConfig,
	} {
		if got := get(t, m.path("etc/"+name)); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"etc/registries.yaml", "etc/config.yaml.d/20.yaml", "restored"} {
		if _, err := os.Stat(m.path(name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
	must(t, m.install())
	m.want(t, Watched, newText)
}

// A later form of the datastore goes back with the executable, any other stays.
func TestGuardRestoresData(t *testing.T) {
	m := furnish(t, t.TempDir())
	i := m.installer()
	i.Present.Schema = 0
	must(t, m.installWith(i))
	for range maxStarts + 1 {
		must(t, m.guard(nil).Run(t.Context()))
	}
	m.want(t, RolledBack, oldText)
	get(t, m.path("restored"))

	m = furnish(t, t.TempDir())
	i = m.installer()
	i.Present.Schema = 0
	must(t, m.installWith(i))
	g := m.guard(nil)
	g.Restore = func(context.Context, State) error { return errors.New("the archive is damaged") }
	for range maxStarts + 1 {
		must(t, g.Run(t.Context()))
	}
	if s := m.want(t, RolledBack, oldText); !strings.Contains(s.Text(), "the archive is damaged") {
		t.Errorf("the journal says %q", s.Text())
	}
}

// Another executable than the upgrade's is none of the guard's business.
func TestGuardLeavesOthersAlone(t *testing.T) {
	m := furnish(t, t.TempDir())
	must(t, m.install())
	must(t, os.Remove(m.target()))
	put(t, m.target(), "by hand")
	for range maxStarts + 2 {
		must(t, m.guard(nil).Run(t.Context()))
	}
	m.want(t, Done, "by hand")
	m.wantClean(t)
}

// TestKilled kills the installation and the guard at any moment. The service's
// executable is always the old one or the new one, whole; what is not completed
// goes back, and the next upgrade works.
func TestKilled(t *testing.T) {
	exe, err := os.Executable()
	must(t, err)
	// work is killed after some time, and reports whether it came to its end.
	work := func(m machine, what string, after time.Duration) bool {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), rootVar+"="+string(m), workVar+"="+what)
		must(t, cmd.Start())
		timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		return cmd.Wait() == nil
	}
	m := furnish(t, t.TempDir())
	begin := time.Now()
	if !work(m, "install", time.Minute) {
		t.Fatal("the installation fails")
	}
	whole := time.Since(begin)
	count := make(map[Phase]int)
	for round := range 15 {
		m := furnish(t, filepath.Join(t.TempDir(), fmt.Sprint(round)))
		work(m, "install", time.Duration(rand.Int64N(int64(whole)*5/4)))
		s, err := m.dir().Read()
		must(t, err)
		count[s.Phase]++
		// The machine boots again and again, and the new version never gets ready.
		for range 2 * maxStarts {
			if text := get(t, m.target()); text != oldText && text != newText {
				t.Fatalf("round %d: the executable is %q", round, text)
			}
			if _, err := os.Stat(m.dir().Guard()); err == nil {
				work(m, "guard", time.Duration(rand.Int64N(int64(whole)*2)))
			}
		}
		for range maxStarts + 1 {
			if _, err := os.Stat(m.dir().Guard()); err == nil {
				must(t, m.guard(nil).Run(t.Context()))
			}
		}
		if s, err = m.dir().Read(); err != nil || get(t, m.target()) != oldText {
			t.Fatalf("round %d: in the end it is %+v with %q, %v", round, s, get(t, m.target()), err)
		}
		must(t, m.install())
		m.want(t, Watched, newText)
	}
	t.Logf("phases at which it was killed: %v; the whole takes %s", count, whole)
}

func TestRoom(t *testing.T) {
	must(t, room(t.TempDir(), 1))
	if _, ok := errors.AsType[*SpaceError](room(t.TempDir(), 1<<50)); !ok {
		t.Error("there is room for a petabyte")
	}
}

func TestTidy(t *testing.T) {
	m := furnish(t, t.TempDir())
	put(t, staged(m.target()), "half")
	put(t, filepath.Join(m.dir().Scratch(), "state.db"), "half")
	lock, err := lockfile.Acquire(m.dir().installLock())
	must(t, err)
	Tidy(m.dir(), m.target(), slog.New(slog.DiscardHandler))
	get(t, staged(m.target())) // an upgrade is at work
	must(t, lock.Release())
	Tidy(m.dir(), m.target(), slog.New(slog.DiscardHandler))
	m.want(t, "", oldText)
	m.wantClean(t)
}

// want checks the journal and the executable.
func (m machine) want(t *testing.T, phase Phase, text string) State {
	t.Helper()
	s, err := m.dir().Read()
	must(t, err)
	if got := get(t, m.target()); s.Phase != phase || got != text {
		t.Fatalf("phase %q with %q, want %q with %q", s.Phase, got, phase, text)
	}
	if _, err := os.Stat(m.dir().Guard()); (err == nil) == phase.Ended() {
		t.Errorf("phase %q: the guard: %v", phase, err)
	}
	return s
}

// wantClean checks that nothing lies about.
func (m machine) wantClean(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{"bin/.*", "upgrade/*.tmp", "upgrade/try"} {
		if left, _ := filepath.Glob(m.path(pattern)); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

func put(t *testing.T, name, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(name), 0o755))
	must(t, os.WriteFile(name, []byte(text), 0o755))
}

func get(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	must(t, err)
	return string(text)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
