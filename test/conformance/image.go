package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"skiff/test/images"
)

// list is a flag that may be given several times.
type list []string

// String implements flag.Value.
func (l *list) String() string { return strings.Join(*l, ",") }

// Set implements flag.Value.
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

// words is a flag that takes a JSON list of strings.
type words struct{ to *[]string }

// String implements flag.Value.
func (w words) String() string { return "" }

// Set implements flag.Value.
func (w words) Set(v string) error { return json.Unmarshal([]byte(v), w.to) }

// makeImage is the verb image: it makes one image in the layout OUT and its
// archive in OUT/archives.
func makeImage(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: image OUT REF [-base REF] [-layer DIR]… [-entrypoint JSON] [-cmd JSON] [-user U] [-env K=V]…")
	}
	layout, image := images.Layout{Dir: args[0]}, images.Image{Ref: args[1]}
	var layers, env list
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.StringVar(&image.Base, "base", "", "image to start from")
	flags.StringVar(&image.User, "user", "", "user to run as")
	flags.Var(&layers, "layer", "directory that becomes a layer")
	flags.Var(&env, "env", "environment variable")
	flags.Var(words{&image.Entrypoint}, "entrypoint", "entry point")
	flags.Var(words{&image.Cmd}, "cmd", "command")
	if err := flags.Parse(args[2:]); err != nil {
		return err
	}
	image.Env = env
	for _, dir := range layers {
		image.Layers = append(image.Layers, images.Tree(dir))
	}
	if err := layout.Add(image); err != nil {
		return err
	}
	archives := filepath.Join(layout.Dir, "archives")
	if err := os.MkdirAll(archives, 0o755); err != nil {
		return err
	}
	return layout.ArchiveFile(image.Ref, filepath.Join(archives, strings.NewReplacer("/", "_", ":", "_").Replace(image.Ref)+".tar"))
}
