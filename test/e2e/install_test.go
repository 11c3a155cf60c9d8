package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"skiff/test/hosts"
	"skiff/test/install"
)

// stick is where a host has the directory of the release.
const stick = "/mnt"

// TestInstall follows docs/install.md without any network: a server from a
// directory, as somebody has brought it on a USB stick, and later, when there is
// a wire, an agent from that server's copy of it. OpenRC runs skiff.
func TestInstall(t *testing.T) {
	t.Parallel()
	files := makeStick(t)
	shop := bareHost(t, files, hosts.Named("shop"), hosts.LoopbackOnly())

	begin := time.Now()
	out := shop.Run("sh", stick+"/install.sh")
	t.Logf("install.sh from a directory to a ready node: %s", time.Since(begin).Round(100*time.Millisecond))
	contains(t, "install.sh", out, "is ready", "skiff uninstall")
	contains(t, "nodes", shop.Run("skiff", "kubectl", "get", "nodes", "--no-headers"), "shop", " Ready ")
	contains(t, "images", shop.Run("crictl", "images"), "tool")
	contains(t, "the journal of changes", shop.ReadFile("/etc/skiff/host-changes"),
		"file\t/usr/local/bin/skiff\n", "file\t/etc/skiff/release.pub\n", "link\t/usr/local/bin/crictl\n", "unit\t/etc/init.d/skiff\n")

	s := newSpace(t, shop, "island")
	s.client("client")
	t.Run("again", func(t *testing.T) { installAgain(t, shop.For(t)) })
	t.Run("a changed release", func(t *testing.T) { installTampered(t, shop.For(t), files) })
	before := s.containerIDs()
	shop.Run("sh", stick+"/install.sh", "--kubelet-arg", "max-pods=50")
	s.eventually("the setting of the second installation", func() error {
		if got := shop.Kubectl("get", "node", "shop", "-o", "jsonpath={.status.capacity.pods}"); got != "50" {
			return fmt.Errorf("room for %q pods, want 50", got)
		}
		return nil
	})
	s.sameContainers("another installation", before)
	t.Run("an agent", func(t *testing.T) { installAgent(t, shop.For(t), files) })
	contains(t, "skiff uninstall", shop.Run("skiff", "uninstall", "--yes"), "skiff has been removed")
}

// makeStick writes a release of the skiff under test, and an image of the
// user's beside it.
func makeStick(t *testing.T) *install.Release {
	t.Helper()
	dir := outlivingDir(t)
	binary, err := os.Open(hosts.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	r, err := install.Make(filepath.Join(hosts.Root(t), "scripts", "install.sh"), dir, "v1.36.3+skiff1", binary, install.NewKey('k'))
	if err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(toolArchive)
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "images"), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "images", "tool.tar"), archive, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// outlivingDir is a temporary directory that is removed after the hosts, which
// have it mounted.
func outlivingDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "skiff-e2e-install-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// bareHost is a machine without skiff, that OpenRC has booted.
func bareHost(t *testing.T, r *install.Release, opts ...hosts.Option) *hosts.Host {
	t.Helper()
	h := hosts.New(t, append(opts, hosts.WithBind(hosts.Bind{From: outlivingDir(t), To: "/usr/local/bin"}),
		hosts.WithBind(hosts.Bind{From: r.Dir, To: stick, ReadOnly: true}))...)
	tools := filepath.Join(hosts.Root(t), "build", "tools", "openrc")
	if err := os.CopyFS(h.Path("/var/lib/openrc"), os.DirFS(tools)); err != nil {
		t.Fatalf("%v; make build/tools/openrc", err)
	}
	// The services that Debian's OpenRC brings would take the machine's consoles.
	h.Run("sh", "-ec", `
		mkdir -p /etc/alternatives /etc/init.d
		ln -s /usr/bin/mawk /etc/alternatives/awk
		cd /var/lib/openrc
		cp -r etc/rc.conf etc/runlevels /etc/
		touch /etc/insserv.conf
		for d in lib sbin; do mount -t overlay -o lowerdir=/var/lib/openrc/$d:/usr/$d overlay /usr/$d; done
		openrc default`)
	return h
}

// installAgain runs the same once more: nothing is changed or restarted.
func installAgain(t *testing.T, h *hosts.Host) {
	state := func() string {
		return h.Run("sh", "-c", `cat /run/openrc/daemons/skiff/*; pgrep -x skiff | head -n 1; find /etc /usr/local/bin -printf '%p %M %s %T@ %l\n' | sort`)
	}
	before := state()
	begin := time.Now()
	contains(t, "install.sh", h.Run("sh", stick+"/install.sh"), "nothing has changed")
	t.Logf("the same again: %s", time.Since(begin).Round(100*time.Millisecond))
	if after := state(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}

// installTampered gives the host a release that somebody has changed.
func installTampered(t *testing.T, h *hosts.Host, r *install.Release) {
	sums := filepath.Join(r.Dir, "SHA256SUMS")
	good, err := os.ReadFile(sums)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sums, []byte(strings.Replace(string(good), "0", "1", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.WriteFile(sums, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}()
	if res := h.Exec("sh", stick+"/install.sh"); res.Code != 1 || !strings.Contains(res.Stderr, "the signature of") {
		t.Errorf("a changed release: %s", res)
	}
	if res := h.Status(); res.Code != 0 {
		t.Errorf("after a changed release was refused: %s", res)
	}
}

// installAgent connects the server to a wire without a way out, and installs
// an agent on another machine there by way of it.
func installAgent(t *testing.T, shop *hosts.Host, r *install.Release) {
	network := hosts.NewNetwork(t)
	shop.AddNIC(network)
	site := bareHost(t, r, hosts.Named("site"), hosts.On(network))
	site.Run("umount", stick)
	before := site.Listing()
	address := shop.Addr() + ":8088"
	server := &http.Server{Handler: http.FileServer(http.Dir(r.Dir))}
	listener := shop.ListenIn(address)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })

	begin := time.Now()
	out := site.Run("sh", "-c", fmt.Sprintf("curl -sfL http://%[1]s/install.sh | INSTALL_SKIFF_ARTIFACT_URL=http://%[1]s SKIFF_URL=https://%s:6443 SKIFF_TOKEN=%s sh -",
		address, shop.Addr(), strings.TrimSpace(shop.ReadFile("/var/lib/skiff/server/agent-token"))))
	t.Logf("curl | sh to a ready agent: %s", time.Since(begin).Round(100*time.Millisecond))
	contains(t, "install.sh", out, "is ready", "rc-service skiff-agent restart")
	hosts.Eventually(t, patience, "two ready nodes", func() error { return nodesReady(shop, 2) })
	if got := site.Run("stat", "-c", "%a", "/etc/skiff/skiff-agent.env"); strings.TrimSpace(got) != "600" {
		t.Errorf("the file with the token has mode %s", got)
	}
	site.Run("skiff", "uninstall", "--yes")
	ofOpenRC := func(line string) bool { return strings.HasPrefix(line, "file /run/openrc/") } // what it remembers of services
	if diff := hosts.Difference(slices.DeleteFunc(before, ofOpenRC), slices.DeleteFunc(site.Listing(), ofOpenRC)); len(diff) > 0 {
		t.Errorf("the machine is not as it was:\n%s", strings.Join(diff, "\n"))
	}
}
