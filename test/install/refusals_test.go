package install

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/test/hosts"
)

// TestRefusals lists what must not be installed, and what the person reads
// then. Nothing may have changed after any of it.
func TestRefusals(t *testing.T) {
	t.Parallel()
	m := newMachine(t, hosts.WithTmpfs(hosts.Tmpfs{Path: "/media", Size: "1m"}))
	m.must()
	m.Run("rm", "/usr/local/bin/skiff") // so that it has to come from the stick
	m.Run("mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", "/srv")
	before := m.listing()
	packed := filepath.Base(m.release.path("gz"))
	for _, tc := range []struct {
		name  string
		spoil func(string) error // what is done to the release
		words []string
		code  int
		want  string
	}{
		{"a changed file", change(packed, []byte("no gzip")), nil, 1, "is not what was signed"},
		{"a missing file", remove(packed), nil, 1, "there is no /mnt/" + packed},
		{"changed checksums", swap("SHA256SUMS", "skiff", "skuff"), nil, 1, "the signature of"},
		{"no checksums", remove("SHA256SUMS"), []string{"INSTALL_SKIFF_ARTIFACT_URL=/mnt"}, 1, "there is no /mnt/SHA256SUMS"},
		{"no signature", remove("SHA256SUMS.minisig"), nil, 1, "there is no /mnt/SHA256SUMS.minisig"},
		{"a signature cut off", change("SHA256SUMS.minisig", Signature([]byte("short"))), nil, 1, "is no signature"},
		{"another key", nil, []string{"INSTALL_SKIFF_PUBLIC_KEY=" + NewKey('x').Public}, 1, "the signature of"},
		{"a script with another key", swap("install.sh", NewKey('k').Public, NewKey('x').Public), nil, 1, "another key than the one this machine trusts"},
		{"another version", nil, []string{"INSTALL_SKIFF_VERSION=v9.9.9"}, 1, "is v1.36.3+skiff1, not v9.9.9"},
		{"a strange version", nil, []string{"INSTALL_SKIFF_VERSION=../x"}, 2, "no version of skiff"},
		{"a channel that is not there", nil, []string{"INSTALL_SKIFF_CHANNEL=latest"}, 1, "there is no /mnt/channels/latest"},
		{"a strange address", nil, []string{"INSTALL_SKIFF_ARTIFACT_URL=ftp://x"}, 2, "want http://, https://, file:// or a directory"},
		{"no web server", nil, []string{"INSTALL_SKIFF_ARTIFACT_URL=http://127.0.0.1:9"}, 1, "no success in 3 tries"},
		{"a file system that is read-only", nil, []string{"INSTALL_SKIFF_BIN_DIR=/usr/sbin"}, 1, "set INSTALL_SKIFF_BIN_DIR"},
		{"one that runs no programs", nil, []string{"INSTALL_SKIFF_BIN_DIR=/srv"}, 1, "noexec"},
		{"one that is full", fill, []string{"INSTALL_SKIFF_BIN_DIR=/media"}, 1, "/media has 0 MB free"},
		{"an executable that does not run", repack("#!/bin/sh\necho no such instruction; exit 132\n"), nil, 1, "does not run on this machine (exit code 132): no such instruction"},
		{"32 bits", nil, []string{"MACHINE=armv7l"}, 1, "64-bit Raspberry Pi OS"},
		{"another processor", nil, []string{"MACHINE=riscv64"}, 1, "there is no skiff for riscv64"},
		{"the other processor", nil, []string{"MACHINE=" + map[string]string{"amd64": "aarch64", "arm64": "x86_64"}[runtime.GOARCH]}, 1, "has nothing for"},
		{"an agent without a token", nil, []string{"SKIFF_URL=https://192.0.2.1:6443"}, 2, "set SKIFF_TOKEN"},
		{"a server's address without https", nil, []string{"SKIFF_URL=192.0.2.1", "SKIFF_TOKEN=x"}, 2, "want https://"},
		{"an agent on a server", nil, []string{"SKIFF_URL=https://192.0.2.1:6443", "SKIFF_TOKEN=x"}, 1, "the service skiff is installed here"},
		{"a strange command", nil, []string{"serve"}, 2, `unknown command "serve"`},
		{"quotes that do not match", nil, []string{"INSTALL_SKIFF_EXEC=--node-label 'a"}, 2, "its quotes do not match"},
		{"a strange word", nil, []string{"INSTALL_SKIFF_SYMLINK=maybe"}, 2, "want skip or force"},
		{"neither true nor false", nil, []string{"INSTALL_SKIFF_SKIP_DOWNLOAD=maybe"}, 2, "neither true nor false"},
		{"nothing there, nothing to download", nil, []string{"INSTALL_SKIFF_SKIP_DOWNLOAD=true"}, 1, "there is no /usr/local/bin/skiff"},
		{"a strange name", nil, []string{"INSTALL_SKIFF_NAME=a/b"}, 2, "INSTALL_SKIFF_NAME=a/b"},
		{"a strange data directory", nil, []string{"SKIFF_DATA_DIR=data"}, 2, "want an absolute path"},
	} {
		m.tool("uname", "#!/bin/sh\nif [ \"$1\" = -m ] && [ -n \"$MACHINE\" ]; then echo $MACHINE; else exec /usr/bin/uname \"$@\"; fi\n")
		if tc.spoil != nil {
			if err := tc.spoil(m.release.Dir); err != nil {
				t.Fatal(err)
			}
		}
		r := m.install(tc.words...)
		if r.Code != tc.code || !strings.Contains(r.Stderr, tc.want) {
			t.Errorf("%s: want code %d and %q, got %s", tc.name, tc.code, tc.want, r)
		}
		if after := m.listing(); after != before {
			t.Errorf("%s: something has changed (-before +after):\n%s", tc.name, cmp.Diff(before, after))
			before = after
		}
		makeRelease(t, m.release.Dir, "v1.36.3+skiff1")
	}
	if got := m.calls(); len(got) != 3 {
		t.Errorf("calls of systemctl: %q, want those of the first installation only", got)
	}
}

func change(name string, content []byte) func(string) error {
	return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), content, 0o644) }
}

func swap(name, old, new string) func(string) error {
	return func(dir string) error {
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, bytes.Replace(b, []byte(old), []byte(new), 1), 0o644)
	}
}

func remove(name string) func(string) error {
	return func(dir string) error { return os.Remove(filepath.Join(dir, name)) }
}

// repack signs something else.
func repack(executable string) func(string) error {
	return func(dir string) error {
		_, err := Make(script, dir, "v1.36.3+skiff1", strings.NewReader(executable), NewKey('k'))
		return err
	}
}

// fill makes the executable larger than there is room for.
func fill(dir string) error {
	return repack("#!/bin/sh\nexit 0\n" + strings.Repeat("#\n", 2<<20))(dir)
}

// TestNoKey is the script as it is in git.
func TestNoKey(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	text, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.release.Dir, "install.sh"), text, 0o755); err != nil {
		t.Fatal(err)
	}
	if r := m.install(); r.Code != 1 || !strings.Contains(r.Stderr, "carries no key") {
		t.Errorf("without a key: %s", r)
	}
	m.WriteFile("/tmp/key.pub", "untrusted comment: k\r\n"+m.release.Key.Public+"\r\n")
	m.must("INSTALL_SKIFF_PUBLIC_KEY=/tmp/key.pub")
	m.must() // by the key that the machine trusts now
	if got := m.ReadFile("/etc/skiff/release.pub"); !strings.HasSuffix(got, "\n"+m.release.Key.Public+"\n") {
		t.Errorf("the machine trusts %q", got)
	}
}

// TestSymlinks leaves other people's tools alone.
func TestSymlinks(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.tool("kubectl", "#!/bin/sh\n")
	m.Run("sh", "-c", "echo another >/usr/local/bin/ctr; ln -s /opt/crictl /usr/local/bin/crictl")
	links := func(words ...string) string {
		m.must(words...)
		return m.Run("sh", "-c", "cd /usr/local/bin; for f in kubectl ctr crictl; do echo $f $(readlink $f); done")
	}
	for _, tc := range []struct{ name, word, want string }{
		{"skip", "skip", "kubectl\nctr\ncrictl /opt/crictl\n"},
		{"where absent", "", "kubectl\nctr\ncrictl skiff\n"},
		{"by force", "force", "kubectl skiff\nctr\ncrictl skiff\n"},
	} {
		if diff := cmp.Diff(tc.want, links("INSTALL_SKIFF_SYMLINK="+tc.word)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
	if got := m.Run("cat", "/usr/local/bin/ctr"); got != "another\n" {
		t.Errorf("the other ctr is %q", got)
	}
}
