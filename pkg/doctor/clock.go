package doctor

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"skiff/pkg/clock"
	"skiff/pkg/hostchange"
	"skiff/pkg/paths"
	"skiff/pkg/pki"
)

func clockChecks() []check {
	return []check{
		{
			id: "clock-wrong", worst: Error, about: "whether the clock shows a time that has passed already: before this skiff was built, or before the last time that skiff saw",
			why: "other machines' certificates seem not valid yet, registries and time stamps fail", look: lookClock,
			fix: "nothing is set; where systemd's time service is there and off, see `clock-unsynchronised`",
		},
		{
			id: "clock-unsynchronised", worst: Warning, about: "whether a time server keeps the clock right",
			why: "without a battery for the clock (a Raspberry Pi) a machine starts with the time of its last stop; skiff copes, certificates of others and logs do not",
			fix: "systemd's time service is switched on where it is installed", look: lookSynchronised,
		},
		{
			id: "certificates", worst: Error, about: "certificates of the server, of the node and of the kubeconfig: expired, or not renewed in time",
			why: "whoever has an expired one is refused. skiff renews its own long before, and at every start", look: lookCertificates,
		},
	}
}

// behind is by how much a clock may be off without being called wrong.
const behind = 10 * time.Minute

func lookClock(_ context.Context, x *exam) error {
	now := x.now()
	const mend = "timedatectl set-ntp true, or by hand: date -s '2026-11-21 12:00'; a machine without a network needs a battery for its clock"
	if now.Before(x.BuildTime) {
		x.found(Error, fmt.Sprintf("the clock says %s, and this skiff was built %s", stamp(now), stamp(x.BuildTime)), mend, nil)
		return nil
	}
	last, err := clock.LastKnown(x.Path(x.Paths.ClockFile()))
	if err != nil {
		return err
	}
	if now.Before(last.Add(-behind)) {
		x.found(Error, fmt.Sprintf("the clock says %s, and it was %s already when skiff last looked", stamp(now), stamp(last)),
			mend+". If the present time is right and the earlier was not: skiff notices within a day", nil)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

func lookSynchronised(_ context.Context, x *exam) error {
	if x.sys.clock.Synchronized() {
		return nil
	}
	battery := len(x.existing("/sys/class/rtc/rtc*")) > 0
	// A virtual machine is told the time by its host.
	source := strings.TrimSpace(x.Read("/sys/devices/system/clocksource/clocksource0/available_clocksource"))
	virtual := strings.Contains(source, "kvm-clock") || strings.Contains(source, "hyperv") || strings.Contains(source, "xen")
	problem := fmt.Sprintf("no time server keeps the clock right; it says %s", stamp(x.now()))
	severity, mend := Info, "nothing has to be done where there is no network; else: timedatectl set-ntp true, or install chrony"
	if !battery && !virtual {
		severity = Warning
		problem += ", and it has no battery: after a power cut the machine does not know the time"
	}
	var f fix
	if units := x.existing(paths.TimesyncUnits()...); len(units) > 0 && x.systemd() && x.sys.root {
		f = func(ctx context.Context) (string, error) {
			if err := x.note(hostchange.Change{Kind: hostchange.TimeSync, Value: "true"}); err != nil {
				return "", err
			}
			if _, err := x.sys.run(ctx, "timedatectl", "set-ntp", "true"); err != nil {
				return "", err
			}
			return "switched systemd's time service on; it needs a minute to set the clock", nil
		}
		if out, err := x.sys.run(context.Background(), "timedatectl", "show", "-p", "NTP", "--value"); err == nil && strings.TrimSpace(out) == "yes" {
			f = nil // It is on, and cannot reach anybody.
			mend = "nothing has to be done where there is no network; else see: timedatectl timesync-status"
		}
	}
	x.found(severity, problem, mend, f)
	return nil
}

// systemd reports whether systemd runs this machine.
func (d *Doctor) systemd() bool {
	_, err := os.Stat(d.Path(paths.SystemdRun))
	return err == nil
}

func lookCertificates(_ context.Context, x *exam) error {
	files := []string{x.Paths.AdminKubeconfig()}
	for _, dir := range []string{x.Paths.ServerTLS(), x.Paths.AgentTLS()} {
		files = append(files, x.existing(filepath.Join(dir, "*.crt"))...)
	}
	var denied error
	for _, file := range files {
		data, err := os.ReadFile(x.Path(file))
		if os.IsPermission(err) {
			denied = errNotRoot
		}
		if err != nil {
			continue
		}
		if filepath.Ext(file) != ".crt" {
			data = kubeconfigCertificate(data)
		}
		certs, err := pki.ParseCerts(data)
		if err != nil || len(certs) == 0 {
			continue // skiff makes damaged ones anew.
		}
		x.certificate(file, certs[0])
	}
	return denied
}

// kubeconfigCertificate is the client certificate within a kubeconfig.
func kubeconfigCertificate(data []byte) []byte {
	var config struct {
		Users []struct {
			User struct {
				Certificate string `yaml:"client-certificate-data"`
			} `yaml:"user"`
		} `yaml:"users"`
	}
	if yaml.Unmarshal(data, &config) != nil || len(config.Users) == 0 {
		return nil
	}
	out, err := base64.StdEncoding.DecodeString(config.Users[0].User.Certificate)
	if err != nil {
		return nil
	}
	return out
}

func (x *exam) certificate(file string, c *x509.Certificate) {
	store := &pki.Store{Lifetime: x.LeafLifetime}
	now, due := x.now(), store.RenewAt(c)
	late := due.Add(c.NotAfter.Sub(due) / 2) // half of the time there is for it has passed
	expired, ending := !now.Before(c.NotAfter), now.After(late)
	what := fmt.Sprintf("%s expires %s", file, stamp(c.NotAfter))
	if expired {
		what = fmt.Sprintf("%s has expired %s", file, stamp(c.NotAfter))
	}
	if c.IsCA {
		x.authority(file, what, c, expired, c.NotAfter.Sub(now) < 90*day)
		return
	}
	switch {
	case expired && x.PID != 0:
		x.found(Error, what+", though skiff runs", "see what skiff's log says about certificates, then restart skiff", nil)
	case ending && x.PID != 0:
		x.found(Warning, what+", and skiff should have renewed it "+stamp(due), "see what skiff's log says about certificates, then restart skiff", nil)
	case expired:
		x.found(Info, what, "start skiff: it makes a new one", nil)
	}
}

// authority looks at a certificate authority, which skiff renews if it has the
// key. On agents it comes from the server.
func (x *exam) authority(file, what string, c *x509.Certificate, expired, ending bool) {
	if !expired && !ending {
		return
	}
	_, err := os.Stat(x.Path(strings.TrimSuffix(file, ".crt") + ".key"))
	ours := err == nil
	switch {
	case expired && !ours && x.Server:
		x.found(Error, what+", and its key is not here", fmt.Sprintf("put a new certificate of %q in its place, with the same key, and restart skiff", c.Subject.CommonName), nil)
	case expired && x.PID != 0:
		x.found(Error, what+", though skiff runs", "restart skiff; on an agent, the server must be in reach", nil)
	case expired:
		x.found(Info, what, "start skiff: it makes a new one, or asks its server", nil)
	case !ours && x.Server:
		x.found(Warning, what+", and its key is not here", fmt.Sprintf("have a new certificate of %q made, with the same key, put it in its place and restart skiff", c.Subject.CommonName), nil)
	}
}
