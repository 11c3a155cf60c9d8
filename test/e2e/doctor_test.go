package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"skiff/test/hosts"
)

// diagnosis is what `skiff doctor -o json` prints.
type diagnosis struct {
	Findings            []finding
	NotLookedAt, Mended []struct{ ID, Reason, Did, Error string }
}

type finding struct {
	ID, Severity, Problem, Mend string
	Fixable                     bool
}

// doctor runs skiff doctor, or what is given, and returns what it has found
// above an info. The disk of the machine that runs the tests may be slow: that
// is found, and no fault.
func doctor(h *hosts.Host, t *testing.T, command ...string) (diagnosis, []string) {
	t.Helper()
	if len(command) == 0 {
		command = []string{"skiff", "doctor"}
	}
	r := h.Exec(append(command, "-o", "json")...)
	var d diagnosis
	if err := json.Unmarshal([]byte(r.Stdout), &d); err != nil {
		t.Fatalf("%s: %v", r, err)
	}
	ids, code := []string{}, 0
	for _, f := range d.Findings {
		if f.Severity == "info" {
			continue
		}
		code = 1
		if f.ID != "slow-fsync" {
			ids = append(ids, f.ID)
		}
	}
	if r.Code != code {
		t.Errorf("exit code %d, want %d: %s", r.Code, code, r)
	}
	slices.Sort(ids)
	return d, slices.Compact(ids)
}

// TestDoctor injects faults into a host, one at a time: before skiff has ever
// run there, and while it runs. Each is found by its id, mended where that is
// safe, and not found again.
func TestDoctor(t *testing.T) {
	t.Parallel()
	boot, readOnly := t.TempDir(), t.TempDir()
	h := hosts.New(t, hosts.Named("doctor"),
		hosts.WithBind(hosts.Bind{From: boot, To: "/boot"}),
		hosts.WithBind(hosts.Bind{From: readOnly, To: "/var/lib/readonly", ReadOnly: true}),
		hosts.WithTmpfs(hosts.Tmpfs{Path: "/var/lib/full", Size: "16m"}),
	)
	healthy := func(when string) {
		t.Helper()
		if d, ids := doctor(h, t); len(ids) > 0 {
			t.Fatalf("%s: found %q: %+v", when, ids, d.Findings)
		}
	}
	healthy("a host on which nothing has run")
	if entries, err := os.ReadDir(h.Path("/var/lib")); err != nil || len(entries) != 2 { // the places that the test has mounted
		t.Errorf("skiff doctor has left something in /var/lib: %v, %v", entries, err)
	}
	for _, f := range stoppedFaults(t, boot) {
		f.check(t, h, healthy)
	}
	withoutRoot(t, h)

	h.StartServer()
	h.WaitReady()
	healthy("a running server")
	if r := h.Exec("skiff", "check-config"); r.Code != 0 {
		t.Errorf("check-config of a running server: %s", r)
	}
	for _, f := range runningFaults() {
		f.check(t, h, healthy)
	}
	a := hosts.New(t, hosts.Named("doctors-agent"), hosts.On(h.Network()))
	a.StartAgent(h)
	a.WaitReady()
	if d, ids := doctor(a, t); len(ids) > 0 {
		t.Errorf("a running agent: found %q: %+v", ids, d.Findings)
	}

	// What --fix has changed is undone with the rest.
	h.Run("skiff", "uninstall", "--yes")
	h.Forget()
	if _, err := os.Stat(h.Path("/etc/sysctl.d/99-zz-skiff.conf")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after skiff uninstall the settings of doctor --fix are there: %v", err)
	}
	if text, err := os.ReadFile(cmdline(boot)); err == nil && string(text) != piLine+piMistake {
		t.Errorf("after skiff uninstall cmdline.txt is %q, want %q", text, piLine+piMistake)
	}
}

// hostFault is one thing that goes wrong on a host.
type hostFault struct {
	name    string
	want    string   // the ids, separated by blanks
	says    string   // part of what the first of them says
	command []string // instead of skiff doctor
	inject  func(t *testing.T, h *hosts.Host)
	fixable bool
	undo    func(t *testing.T, h *hosts.Host) // what ends it, after a fix or without
}

func (f hostFault) check(t *testing.T, h *hosts.Host, healthy func(string)) {
	t.Run(f.name, func(t *testing.T) {
		h := h.For(t)
		if f.inject != nil {
			f.inject(t, h)
		}
		d, ids := doctor(h, t, f.command...)
		if want := strings.Fields(f.want); !slices.Equal(ids, want) {
			t.Fatalf("found %q, want %q: %+v", ids, want, d.Findings)
		}
		i := slices.IndexFunc(d.Findings, func(x finding) bool { return x.ID == ids[0] && x.Severity != "info" })
		if x := d.Findings[i]; !strings.Contains(x.Problem, f.says) || x.Mend == "" || x.Fixable != f.fixable {
			t.Errorf("fixable should be %v, and the problem say %q: %+v", f.fixable, f.says, x)
		}
		if f.fixable {
			fixed, _ := doctor(h, t, "skiff", "doctor", "--fix")
			if len(fixed.Mended) != 1 || fixed.Mended[0].ID != ids[0] || fixed.Mended[0].Error != "" {
				t.Errorf("mended: %+v", fixed.Mended)
			}
		}
		if f.undo != nil {
			f.undo(t, h)
		}
		healthy(f.name + ", mended")
	})
}

// file is a fault that is one file.
func file(path, text string) (inject, undo func(*testing.T, *hosts.Host)) {
	return func(_ *testing.T, h *hosts.Host) { h.WriteFile(path, text) },
		func(t *testing.T, h *hosts.Host) {
			if err := os.Remove(h.Path(path)); err != nil {
				t.Fatal(err)
			}
		}
}

func fileFault(name, want, says, path, text string) hostFault {
	f := hostFault{name: name, want: want, says: says}
	f.inject, f.undo = file(path, text)
	return f
}

func stoppedFaults(t *testing.T, boot string) []hostFault {
	checkConfig := fileFault("registries", "registries-file", "did you mean mirrors?", "/etc/skiff/registries.yaml", "mirors: {}\n")
	checkConfig.command = []string{"skiff", "check-config"}
	sysctl := fileFault("inotify", "inotify-limits", "/etc/sysctl.d/50-low.conf sets fs.inotify.max_user_instances to 128", "/etc/sysctl.d/50-low.conf", "fs.inotify.max_user_instances=128\n")
	sysctl.fixable = true
	var listener *hosts.Process
	return []hostFault{
		piFault(boot),
		{
			name: "port", want: "port-taken", says: "in use by busybox (process ",
			inject: func(t *testing.T, h *hosts.Host) {
				listener = h.Spawn(hosts.Command{Args: []string{"busybox", "nc", "-l", "-p", "10250"}})
				hosts.Eventually(t, 10*time.Second, "a process that listens", func() error {
					if out := h.Run("busybox", "netstat", "-ltn"); !strings.Contains(out, ":10250") {
						return errors.New(out)
					}
					return nil
				})
			},
			undo: func(*testing.T, *hosts.Host) { listener.Signal(syscall.SIGKILL); listener.Wait() },
		},
		fileFault("loop", "dns-loop", "names only 127.0.0.53", "/etc/resolv.conf", "nameserver 127.0.0.53\n"),
		fileFault("left by K3s", "other-distribution", "K3s starts at the next boot", "/etc/systemd/system/multi-user.target.wants/k3s.service", "[Service]\n"),
		fileFault("certificate", "certificates", "has expired", "/var/lib/skiff/server/tls/server-ca.crt", expiredAuthority(t)),
		fileFault("clock", "clock-wrong", "it was 2099-01-01", "/var/lib/skiff/clock", "2099-01-01T00:00:00Z\n"),
		fileFault("configuration", "config-file", "did you mean cluster-cidr?", "/etc/skiff/config.yaml", "cluster-cdir: 10.42.0.0/16\n"),
		checkConfig, sysctl,
		{name: "full disk", want: "data-dir-file-system disk-space", command: []string{"skiff", "doctor", "--data-dir", "/var/lib/full"}},
		{name: "read-only", want: "data-dir", says: "read-only", command: []string{"skiff", "doctor", "--data-dir", "/var/lib/readonly"}},
		{name: "open files", want: "file-limits", says: "256 files", command: []string{"prlimit", "--nofile=256:256", "skiff", "doctor"}},
		{
			name: "interface", want: "other-interfaces", says: "10.244.0.1/24", fixable: true,
			inject: func(_ *testing.T, h *hosts.Host) {
				h.Run("ip", "link", "add", "cni0", "type", "bridge")
				h.Run("ip", "address", "add", "10.244.0.1/24", "dev", "cni0")
			},
		},
	}
}

// What is in a Raspberry Pi's cmdline.txt, and what many append to it: the
// firmware reads one line only.
const (
	piLine    = "console=serial0,115200 console=tty1 root=PARTUUID=1-02 rootfstype=ext4 fsck.repair=yes rootwait"
	piMistake = "\ncgroup_enable=memory\n"
)

func cmdline(boot string) string { return filepath.Join(boot, "firmware", "cmdline.txt") }

// piFault is a Raspberry Pi's: the memory controller is off, which the host is
// shown by unmounting it, and the boot partition has a cmdline.txt.
func piFault(boot string) hostFault {
	cmdline := cmdline(boot)
	const memory = "/sys/fs/cgroup/memory"
	return hostFault{
		name: "raspberry pi", want: "cgroup-memory", says: "memory controller", fixable: true,
		inject: func(t *testing.T, h *hosts.Host) {
			if r := h.Exec("umount", memory); r.Code != 0 {
				t.Skipf("the memory controller cannot be hidden from the host: %s", r)
			}
			if err := os.MkdirAll(filepath.Dir(cmdline), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(cmdline, []byte(piLine+piMistake), 0o755); err != nil {
				t.Fatal(err)
			}
		},
		undo: func(t *testing.T, h *hosts.Host) {
			text, err := os.ReadFile(cmdline)
			if want := piLine + " cgroup_memory=1 cgroup_enable=memory\n"; err != nil || string(text) != want {
				t.Errorf("cmdline.txt is %q, %v; want %q", text, err, want)
			}
			if _, ids := doctor(h, t); !slices.Equal(ids, []string{"cgroup-memory"}) {
				t.Errorf("before the reboot: %q", ids)
			}
			h.Run("mount", "-t", "cgroup", "-o", "memory", "cgroup", memory) // as after a reboot
		},
	}
}

func runningFaults() []hostFault {
	const nft = "/var/lib/skiff/bin/nft"
	return []hostFault{
		{
			name: "forwarding", want: "sysctl-changed", says: "net.ipv4.ip_forward is 0", fixable: true,
			inject: func(_ *testing.T, h *hosts.Host) { h.Run("sysctl", "-w", "net.ipv4.ip_forward=0") },
		},
		{
			name: "rules of others", want: "firewall-nftables", says: "forward of table inet mine drops packets between pods",
			inject: func(_ *testing.T, h *hosts.Host) {
				h.WriteFile("/etc/mine.nft", "table inet mine { chain forward { type filter hook forward priority 0; policy drop; ct state established,related accept; }; }\n")
				h.Run(nft, "-f", "/etc/mine.nft")
			},
			undo: func(t *testing.T, h *hosts.Host) {
				d, _ := doctor(h, t)
				for _, f := range d.Findings {
					if f.ID != "firewall-nftables" {
						continue
					}
					for command := range strings.SplitSeq(f.Mend, "; ") {
						if args, ok := strings.CutPrefix(command, "nft "); ok {
							h.Run(append([]string{nft}, strings.Fields(args)...)...)
						}
					}
				}
			},
		},
	}
}

// expiredAuthority is the certificate of an authority that has expired.
func expiredAuthority(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mine"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().AddDate(-2, 0, 0), NotAfter: time.Now().AddDate(-1, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// withoutRoot: what can be seen is looked at, and the rest is named.
func withoutRoot(t *testing.T, h *hosts.Host) {
	d, ids := doctor(h, t, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "skiff", "doctor")
	if len(ids) > 0 || !slices.ContainsFunc(d.NotLookedAt, func(u struct{ ID, Reason, Did, Error string }) bool { return u.ID == "firewall-nftables" }) {
		t.Errorf("without root: found %q, not looked at %+v", ids, d.NotLookedAt)
	}
}
