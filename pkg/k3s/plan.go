package k3s

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"skiff/internal/atomicfile"
	"skiff/pkg/config"
	"skiff/pkg/datastore/repair"
	"skiff/pkg/paths"
	"skiff/pkg/pki"
	"skiff/pkg/snapshot"
)

// jump is how far the revisions of the new database are ahead of the old ones.
const jump = 1_000_000

// encryptionFile is K3s' key for Secrets, among skiff's keys, so that snapshots
// have it.
const encryptionFile = "encryption-config.json"

// plan is what will be written: files of their own, and the server's state.
type plan struct {
	Options

	server bool // there is a server's state to take over
	files  []target
}

// target is a file that is written at the end.
type target struct {
	path string
	data []byte
	mode os.FileMode
}

// newPlan works out what is to be written besides the server's state.
func newPlan(o Options, g *given, r *Report) (*plan, error) {
	p := &plan{Options: o}
	role := map[string]config.Role{"server": config.RoleServer, "agent": config.RoleAgent}[g.role]
	if _, err := os.Stat(p.database()); err == nil && g.role == "server" {
		p.server = true
	}
	r.Server = p.server
	settings, report := g.translate(role)
	r.Settings = report
	if p.To.Data != paths.DefaultData {
		settings = append(settings, taken{optionOf("data-dir"), []string{p.To.Data}})
	}
	if p.server {
		// The files of the tokens come along; so they can be rotated.
		settings = slices.DeleteFunc(settings, func(s taken) bool {
			return strings.HasPrefix(s.option.Name, "token") || strings.HasPrefix(s.option.Name, "agent-token")
		})
		settings = p.encryption(settings)
	}
	text, err := configFile(settings, o.From.Config)
	if err != nil {
		return nil, err
	}
	if text != nil {
		p.files = append(p.files, target{o.To.ConfigFile(), text, 0o600})
	}
	for from, to := range map[string]string{o.From.Registries: o.To.RegistriesFile(), o.From.Password: o.To.NodePassword()} {
		data, err := os.ReadFile(from)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", from, err)
		}
		p.files = append(p.files, target{to, data, 0o600})
	}
	slices.SortFunc(p.files, func(a, b target) int { return strings.Compare(a.path, b.path) })
	p.advise(g, r)
	return p, nil
}

func (p *plan) database() string { return filepath.Join(p.From.Data, "server", "db", "state.db") }

func (p *plan) encryptionConfig() string {
	return filepath.Join(p.From.Data, "server", "cred", encryptionFile)
}

// encryption has the API server go on with K3s' key.
func (p *plan) encryption(settings []taken) []taken {
	if data, err := os.ReadFile(p.encryptionConfig()); err != nil || len(data) == 0 {
		return settings
	}
	arg := "encryption-provider-config=" + filepath.Join(p.To.ServerTLS(), encryptionFile)
	for i, s := range settings {
		if s.option.Name == "kube-apiserver-arg" {
			settings[i].values = append(settings[i].values, arg)
			return settings
		}
	}
	return append(settings, taken{optionOf("kube-apiserver-arg"), []string{arg}})
}

// optionOf is the option of this name.
func optionOf(name string) config.Option {
	all := config.Options()
	return all[slices.IndexFunc(all, func(o config.Option) bool { return o.Name == name })]
}

// there are the files and directories that would be replaced by others.
func (p *plan) there() (out []string) {
	for _, f := range p.files {
		if data, err := os.ReadFile(f.path); err == nil && string(data) != string(f.data) {
			out = append(out, f.path)
		}
	}
	if _, err := os.Stat(p.To.ServerDB()); err == nil && p.server {
		out = append(out, p.To.Server())
	}
	return out
}

// try builds the state elsewhere, and throws it away.
func (p *plan) try(ctx context.Context, r *Report) (err error) {
	draft, err := os.MkdirTemp("", "skiff-migrate-k3s-")
	if err != nil {
		return fmt.Errorf("find a place for a trial: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(draft)) }()
	if there := p.there(); len(there) > 0 && !p.Force {
		r.Advice = append(r.Advice, (&ExistsError{there}).Error())
	}
	return p.build(ctx, draft, r)
}

// build puts the server's state together below the directory draft.
func (p *plan) build(ctx context.Context, draft string, r *Report) error {
	if !p.server {
		return nil
	}
	in := paths.Layout{Data: draft}
	for _, dir := range []string{in.ServerDB(), in.ServerTLS(), in.Manifests()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make draft of the server's state: %w", err)
		}
	}
	if err := p.identity(in); err != nil {
		return err
	}
	if err := p.objects(ctx, in.ServerDB(), r); err != nil {
		return fmt.Errorf("take over the objects: %w", err)
	}
	if err := p.manifests(in, r); err != nil {
		return err
	}
	return syncTree(draft)
}

// identity copies what makes the cluster this one: authorities, keys, tokens.
func (p *plan) identity(in paths.Layout) error {
	tls, from := in.ServerTLS(), filepath.Join(p.From.Data, "server")
	for _, name := range []string{pki.ServerCA, pki.ClientCA, pki.RequestHeaderCA} {
		for _, ext := range []string{".crt", ".key"} {
			if err := copyFile(filepath.Join(from, "tls", name+ext), filepath.Join(tls, name+ext)); err != nil {
				return fmt.Errorf("take over the authority %s: %w", name, err)
			}
		}
	}
	if err := copyFile(filepath.Join(from, "tls", "service.key"), filepath.Join(tls, pki.ServiceKey+".key")); err != nil {
		return fmt.Errorf("take over the key of service accounts: %w", err)
	}
	if err := copyFile(filepath.Join(from, "token"), in.Token()); err != nil {
		return fmt.Errorf("take over the token: %w", err)
	}
	for from, to := range map[string]string{filepath.Join(from, "agent-token"): in.AgentToken(), p.encryptionConfig(): filepath.Join(tls, encryptionFile)} {
		if err := copyFile(from, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("take over %s: %w", from, err)
		}
	}
	return nil
}

// objects makes the database. K3s' is read from a copy.
func (p *plan) objects(ctx context.Context, dir string, r *Report) (err error) {
	c, err := repair.Borrow(ctx, p.database(), filepath.Join(dir, "k3s.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Remove()) }()
	s := newSurvey()
	if err := c.Each(ctx, s.add); err != nil {
		return err
	}
	drop := s.decide()
	var mending error
	kept, err := c.WriteTo(ctx, filepath.Join(dir, "state.db"), jump, func(key string, value []byte) ([]byte, bool) {
		if drop[key] {
			return nil, false
		}
		o, err := parse(key, value)
		if err != nil {
			return value, true // It is nobody's object, or encrypted.
		}
		mended, did, err := withoutFinalizers(value, o, wranglers)
		mending = errors.Join(mending, err)
		if did {
			s.objects.Mended++
		}
		return mended, true
	})
	s.objects.Kept = kept
	r.Objects = s.objects
	return errors.Join(err, mending)
}

// ownManifests are the files and directories that K3s writes at every start.
var ownManifests = []string{"ccm.yaml", "coredns.yaml", "local-storage.yaml", "metrics-server", "rolebindings.yaml", "runtimes.yaml", "traefik.yaml"}

// traefikClass lets Ingresses that ask for Traefik be served by skiff.
const traefikClass = `# From skiff migrate-k3s: Ingresses of class traefik are served by skiff's own ingress.
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata:
  name: traefik
spec:
  controller: skiff.dev/ingress
`

// manifests copies the user's own manifests and charts.
func (p *plan) manifests(in paths.Layout, r *Report) error {
	from := filepath.Join(p.From.Data, "server")
	own := func(rel string) bool { return slices.Contains(ownManifests, strings.TrimSuffix(rel, ".skip")) }
	if err := copyTree(filepath.Join(from, "manifests"), in.Manifests(), own); err != nil {
		return fmt.Errorf("take over manifests: %w", err)
	}
	own = func(rel string) bool { return strings.HasPrefix(filepath.Base(rel), "traefik-") }
	if err := copyTree(filepath.Join(from, "static"), in.Static(), own); err != nil {
		return fmt.Errorf("take over charts: %w", err)
	}
	if !r.Objects.TraefikClass {
		return nil
	}
	return os.WriteFile(filepath.Join(in.Manifests(), "traefik-ingress-class.yaml"), []byte(traefikClass), 0o600)
}

// copyTree copies the files below a directory, if there is one, but for those
// and the directories that leave is true of.
func copyTree(from, to string, leave func(rel string) bool) error {
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		switch {
		case err != nil:
			return err
		case leave(rel) && d.IsDir():
			return fs.SkipDir
		case leave(rel), !d.Type().IsRegular():
			return nil
		}
		return copyFile(path, filepath.Join(to, rel))
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// copyFile copies a file, or where a link leads, for its owner alone.
func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(to, data, 0o600)
}

// syncTree syncs the directories; files have been synced.
func syncTree(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return atomicfile.SyncDir(path)
	})
}

// install puts everything in its place: the server's state in one step, then
// the files.
func (p *plan) install(draft string, now time.Time, r *Report) error {
	if p.server {
		restored := p.To.ServerRestored()
		if err := errors.Join(os.RemoveAll(restored), os.Rename(paths.Layout{Data: draft}.Server(), restored)); err != nil {
			return fmt.Errorf("put the server's state in place: %w", err)
		}
		aside, err := snapshot.Swap(p.To, now)
		if err != nil {
			return fmt.Errorf("put the server's state in place: %w", err)
		}
		if aside != "" {
			r.Aside = append(r.Aside, aside)
		}
		r.Written = append(r.Written, p.To.Server())
	}
	for _, f := range p.files {
		if data, err := os.ReadFile(f.path); err == nil && string(data) != string(f.data) {
			aside := f.path + ".before-migration-" + now.UTC().Format("20060102T150405Z")
			if err := os.Rename(f.path, aside); err != nil {
				return fmt.Errorf("move %s aside: %w", f.path, err)
			}
			r.Aside = append(r.Aside, aside)
		}
		if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
		if err := atomicfile.Write(f.path, f.data, f.mode); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
		r.Written = append(r.Written, f.path)
	}
	return nil
}
