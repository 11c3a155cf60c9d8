// Command dist makes the files of a release that neither an ordinary tool nor
// scripts/release, which signs, makes: the bill of materials, the container
// image, the installer with its key, the list of checksums. release.mk calls it;
// the same input gives the same bytes. Start reading at commands.
package main

import (
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"skiff/scripts/dist/image"
)

// options are the flags; every command uses some of them.
type options struct {
	skiff    string // the executable
	version  string
	commit   string
	created  time.Time
	modcache string // where the sources of Go modules are
	install  string // the installer without key
	pub      string // public key
	dir      string // the release
	names    string // what the executable is called in the list of checksums
	out      string
}

// command is one thing to make.
type command struct {
	name, usage string
	run         func(options) error
}

func commands() []command {
	return []command{
		{"sbom", "write the bill of materials (SPDX) of -skiff to -out", writeSBOM},
		{"image", "write the container image with -skiff to -out", writeImage},
		{"installer", "write -install with the public key of -pub and -version to -out", writeInstaller},
		{"sums", "write the list of checksums of -dir", writeSums},
	}
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "dist:", err)
		os.Exit(1) //nolint:forbidigo // A program of its own.
	}
}

func run(args []string) error {
	var o options
	var created string
	f := flag.NewFlagSet("dist", flag.ContinueOnError)
	f.StringVar(&o.skiff, "skiff", "", "the executable; of several, separated by commas, for sums")
	f.StringVar(&o.version, "version", "", "the version of the release")
	f.StringVar(&o.commit, "commit", "", "the commit it was made from")
	f.StringVar(&created, "created", "", "the time of the commit (RFC 3339)")
	f.StringVar(&o.modcache, "modcache", "", "Go's module cache, for licences")
	f.StringVar(&o.install, "install", "", "the installer without a key")
	f.StringVar(&o.pub, "pub", "", "the public key")
	f.StringVar(&o.dir, "dir", "", "the directory of the release")
	f.StringVar(&o.names, "names", "", "what the executables of -skiff are called, for sums")
	f.StringVar(&o.out, "out", "", "the file to write")
	if len(args) == 0 {
		return usage()
	}
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if created != "" {
		var err error
		if o.created, err = time.Parse(time.RFC3339, created); err != nil {
			return fmt.Errorf("read -created: %w", err)
		}
	}
	for _, c := range commands() {
		if c.name == args[0] {
			if err := c.run(o); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			return nil
		}
	}
	return usage()
}

func usage() error {
	text := "usage: dist COMMAND [flags]"
	for _, c := range commands() {
		text += fmt.Sprintf("\n  %-10s %s", c.name, c.usage)
	}
	return errors.New(text)
}

func writeImage(o options) error {
	return image.Write(o.out, image.Options{
		Skiff: o.skiff, Version: o.version, Commit: o.commit, Created: o.created, Level: gzip.BestCompression,
	})
}
