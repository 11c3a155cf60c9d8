package k3s

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// advise says what does not come along by itself.
func (p *plan) advise(g *given, r *Report) {
	add := func(format string, args ...any) { r.Advice = append(r.Advice, fmt.Sprintf(format, args...)) }
	if len(g.proxies) > 0 {
		slices.Sort(g.proxies)
		add("The service of K3s sets %s: put them into the environment of skiff's service.", strings.Join(slices.Compact(g.proxies), ", "))
	}
	images := filepath.Join(p.From.Data, "agent", "images")
	if found, _ := os.ReadDir(images); len(found) > 0 {
		add("Archives of images are in %s: copy yours to %s; those of K3s' own images are not needed.", images, p.To.Images())
	}
	for _, name := range []string{"config.toml.tmpl", "config-v3.toml.tmpl"} {
		file := filepath.Join(p.From.Data, "agent", "etc", "containerd", name)
		if _, err := os.Stat(file); err == nil {
			add("%s changes containerd's configuration: write what it adds into a file in %s.", file, p.To.ContainerdDropIns())
		}
	}
	if endpoint := g.values["datastore-endpoint"]; len(endpoint) > 0 && !p.server {
		add("The objects are in the database of datastore-endpoint, and stay there: skiff reads K3s' table. Copy K3s' server/tls and server/token to %s and %s first, or nothing that K3s has signed is valid any more. K3s' own parts in it (coredns, traefik, metrics-server, local-path-provisioner, AddOns) are yours to delete.",
			p.To.ServerTLS(), p.To.Token())
	}
	for _, arg := range slices.Concat(g.values["kube-apiserver-arg"], g.values["kubelet-arg"], g.values["kube-controller-manager-arg"], g.values["kube-scheduler-arg"]) {
		if strings.Contains(arg, p.From.Data+"/") {
			add("The argument %s names a file of K3s: copy it to a place of its own, and correct %s, before you remove K3s.", arg, p.To.ConfigFile())
		}
	}
}

// Text is the report for the person at the terminal.
func (r Report) Text(o Options) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	verb := "is taken over"
	if o.Dry {
		verb = "would be taken over (nothing has been changed)"
	}
	add("K3s %s in %s %s.", r.Role, o.From.Data, verb)
	for _, s := range r.Settings {
		switch {
		case s.Taken && s.Note != "":
			add("  setting %s: here it is %s", s.Name, s.Note)
		case s.Taken:
			add("  setting %s: as it is", s.Name)
		default:
			add("  setting %s (%s): left out: %s", s.Name, s.From, s.Note)
		}
	}
	if r.Server {
		r.objectText(add)
	}
	for _, w := range r.Written {
		add("  written: %s", w)
	}
	for _, a := range r.Aside {
		add("  what was there before: %s", a)
	}
	for _, a := range r.Advice {
		add("To do: %s", a)
	}
	if !o.Dry {
		add("Next: start skiff %s. Do not start K3s again beside it.", r.Role)
	}
	return out
}

func (r Report) objectText(add func(string, ...any)) {
	add("  authorities, service account key and token: as they are; kubeconfigs and joined agents' tokens stay valid")
	add("  objects: %d come along", r.Objects.Kept)
	for _, g := range r.Objects.Removed {
		add("  objects left out: %d of %s", len(g.Keys), g.Part)
	}
	if n := r.Objects.Encrypted; n > 0 {
		add("  encrypted objects: %d, with K3s' key, which comes along", n)
	}
	if r.Objects.TraefikClass {
		add("  Ingresses of class traefik are served by skiff's ingress: IngressClass traefik is made anew for it")
	}
	if len(r.Objects.Traefik) > 0 {
		add("To do: skiff does not act on Traefik's own kinds (%s): turn them into Ingresses or HTTPRoutes, see docs/ingress.md.", strings.Join(r.Objects.Traefik, ", "))
	}
	if n := len(r.Objects.LocalPath); n > 0 {
		add("To do: %d volumes of local-path keep their data where it is, as in %s. k3s-uninstall.sh would delete it: do not run it. When such a volume is deleted, its directory stays.", n, r.Objects.LocalPath[0])
	}
	if n := len(r.Objects.Odd); n > 0 {
		add("  %d keys are no objects that this skiff can read; they come along, the first is %s", n, r.Objects.Odd[0])
	}
}
