package cli

import (
	"crypto/fips140"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"skiff/pkg/datastore/sqlite"
	"skiff/pkg/inventory"
	"skiff/pkg/paths"
	"skiff/pkg/version"
)

// versions is what `skiff version -o json` prints. The second half is there
// with --verbose only.
type versions struct {
	Version    string            `json:"version"`
	Commit     string            `json:"commit,omitempty"`
	BuildDate  string            `json:"buildDate,omitempty"`
	Go         string            `json:"go"`
	Platform   string            `json:"platform"`
	Components map[string]string `json:"components"`

	FIPS     *fipsMode         `json:"fips140,omitempty"`
	Helpers  []helperVersion   `json:"helpers,omitempty"`
	Packages []packageVersion  `json:"packages,omitempty"`
	Modules  map[string]string `json:"modules,omitempty"`
}

// fipsMode says which of Go's FIPS 140-3 modules was compiled in ("off": the
// toolchain's own cryptography), and whether its mode is on in this process.
type fipsMode struct {
	Module  string `json:"module"`
	Enabled bool   `json:"enabled"`
}

// helperVersion is one of the executables in the payload.
type helperVersion struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	From    string `json:"from"`
}

// packageVersion is one of Debian's packages, of which skiff carries files or
// was linked with libraries.
type packageVersion struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Linked  bool   `json:"linked"`
}

// componentModule names the module that an embedded component is.
type componentModule struct {
	name, module string
	verbose      bool // only with --verbose
}

func componentModules() []componentModule {
	return []componentModule{
		{name: "kubernetes", module: "k8s.io/kubernetes"},
		{name: "containerd", module: "github.com/containerd/containerd/v2"},
		{name: "kine", module: "github.com/k3s-io/kine"},
		{name: "coredns", module: "github.com/coredns/coredns"},
		{name: "caddy", module: "github.com/coredns/caddy", verbose: true},
		{name: "go-sqlite3", module: "github.com/mattn/go-sqlite3", verbose: true},
		{name: "etcd-client", module: "go.etcd.io/etcd/client/v3", verbose: true},
		{name: "pgx", module: "github.com/jackc/pgx/v5", verbose: true},
		{name: "mysql", module: "github.com/go-sql-driver/mysql", verbose: true},
		{name: "helm", module: "helm.sh/helm/v4", verbose: true},
		{name: "gateway-api", module: "sigs.k8s.io/gateway-api", verbose: true},
		{name: "kubectl", module: "k8s.io/kubectl", verbose: true},
		{name: "cri-client", module: "k8s.io/cri-client", verbose: true},
	}
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the versions of skiff and of what it contains",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "text or json"},
			&cli.BoolFlag{Name: "verbose", Usage: "every part: libraries, helper executables, Debian's packages; with -o json every Go module too", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			return printVersion(c.App.Writer, c.String("output"), c.Bool("verbose"))
		},
	}
}

// readVersions takes the components' versions from what the linker recorded.
func readVersions() versions {
	v := versions{
		Version:    version.Version,
		Commit:     version.Commit,
		BuildDate:  version.BuildDate,
		Go:         runtime.Version(),
		Platform:   runtime.GOOS + "/" + runtime.GOARCH,
		Components: map[string]string{},
	}
	if build, ok := debug.ReadBuildInfo(); ok {
		v.addComponents(build, false)
	}
	return v
}

func (v *versions) addComponents(build *debug.BuildInfo, verbose bool) {
	for _, c := range componentModules() {
		if m := inventory.Module(build, c.module); m != "" && (verbose || !c.verbose) {
			v.Components[c.name] = m
		}
	}
}

// addParts adds what only the whole executable can tell: some 50 MB are
// unpacked for it.
func (v *versions) addParts() error {
	parts, err := inventory.Read(paths.Self)
	if err != nil {
		return fmt.Errorf("list what this executable contains: %w", err)
	}
	v.addComponents(parts.Build, true)
	v.Components["sqlite"] = sqlite.LibraryVersion()
	v.FIPS = &fipsMode{Module: "off", Enabled: fips140.Enabled()}
	if m := inventory.Setting(parts.Build, "GOFIPS140"); m != "" {
		v.FIPS.Module = m
	}
	v.Modules = map[string]string{}
	for _, m := range parts.Build.Deps {
		v.Modules[m.Path] = inventory.Effective(m).Version
	}
	for _, p := range parts.Packages {
		v.Packages = append(v.Packages, packageVersion{Name: p.Name, Version: p.Version, Linked: p.Linked})
	}
	for _, h := range parts.Helpers {
		if !strings.Contains(h.Name, "/") { // libraries are Debian's packages
			v.Helpers = append(v.Helpers, v.helper(h))
		}
	}
	return nil
}

// helper says where a helper executable is from: a Go module, or this source.
func (v *versions) helper(h inventory.Helper) helperVersion {
	from := helperVersion{Name: h.Name, Version: v.Version, From: "skiff"}
	if h.Build != nil && h.Build.Main.Version != "(devel)" {
		from.Version, from.From = h.Build.Main.Version, h.Build.Main.Path
	}
	return from
}

func printVersion(w io.Writer, format string, verbose bool) error {
	v := readVersions()
	if verbose {
		if err := v.addParts(); err != nil {
			return err
		}
	}
	switch format {
	case "json":
		return writeJSON(w, v)
	case "text":
	default:
		return usage(fmt.Errorf("invalid --output %q: want text or json", format))
	}
	var text strings.Builder
	fmt.Fprintf(&text, "skiff %s", v.Version)
	if v.Commit != "" {
		fmt.Fprintf(&text, " (%.12s)", v.Commit)
	}
	fmt.Fprintf(&text, " %s %s\n", v.Platform, v.Go)
	if verbose {
		v.writeParts(&text)
	} else {
		for _, c := range componentModules() {
			if s := v.Components[c.name]; s != "" {
				fmt.Fprintf(&text, "%s %s\n", c.name, s)
			}
		}
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("write version: %w", err)
	}
	return nil
}

// writeParts writes the list of --verbose: what, version, where it is from.
func (v *versions) writeParts(text *strings.Builder) {
	t := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	defer t.Flush()
	state := "off"
	if v.FIPS.Enabled {
		state = "on"
	}
	fmt.Fprintf(t, "fips140\t%s\tmodule %s\n", state, v.FIPS.Module)
	fmt.Fprintf(t, "\nlinked into this executable\n")
	for _, c := range componentModules() {
		if s := v.Components[c.name]; s != "" {
			fmt.Fprintf(t, "%s\t%s\t%s\n", c.name, s, c.module)
		}
	}
	fmt.Fprintf(t, "sqlite\t%s\tin go-sqlite3\n", v.Components["sqlite"])
	for _, p := range v.Packages {
		if p.Linked {
			fmt.Fprintf(t, "%s\t%s\tDebian\n", p.Name, p.Version)
		}
	}
	fmt.Fprintf(t, "and %d Go modules in all: -o json lists them\n", len(v.Modules))
	fmt.Fprintf(t, "\nhelper executables that it carries\n")
	for _, h := range v.Helpers {
		fmt.Fprintf(t, "%s\t%s\t%s\n", h.Name, h.Version, h.From)
	}
	for _, p := range v.Packages {
		if !p.Linked {
			fmt.Fprintf(t, "%s\t%s\tDebian, for nft\n", p.Name, p.Version)
		}
	}
}
