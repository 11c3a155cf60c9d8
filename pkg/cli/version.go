package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"

	"skiff/pkg/version"
)

// versions is what `skiff version -o json` prints.
type versions struct {
	Version    string            `json:"version"`
	Commit     string            `json:"commit,omitempty"`
	BuildDate  string            `json:"buildDate,omitempty"`
	Go         string            `json:"go"`
	Platform   string            `json:"platform"`
	Components map[string]string `json:"components"`
}

// component names the module that an embedded component is.
type componentModule struct{ name, module string }

func componentModules() []componentModule {
	return []componentModule{
		{"kubernetes", "k8s.io/kubernetes"},
		{"containerd", "github.com/containerd/containerd/v2"},
		{"kine", "github.com/k3s-io/kine"},
		{"coredns", "github.com/coredns/coredns"},
	}
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the versions of skiff and of what it contains",
		Flags: []cli.Flag{&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "text or json"}},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			return printVersion(c.App.Writer, c.String("output"))
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
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	modules := map[string]string{}
	for _, m := range info.Deps {
		modules[m.Path] = m.Version
	}
	for _, c := range componentModules() {
		if m := modules[c.module]; m != "" {
			v.Components[c.name] = m
		}
	}
	return v
}

func printVersion(w io.Writer, format string) error {
	v := readVersions()
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
	for _, c := range componentModules() {
		if s := v.Components[c.name]; s != "" {
			fmt.Fprintf(&text, "%s %s\n", c.name, s)
		}
	}
	if _, err := io.WriteString(w, text.String()); err != nil {
		return fmt.Errorf("write version: %w", err)
	}
	return nil
}
