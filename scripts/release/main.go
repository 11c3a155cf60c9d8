// Command release makes the signed parts of a release, for `make release`.
//
//	release keygen FILE             makes a key: FILE is private, FILE.pub public
//	release public -key FILE        prints the public key of a private one
//	release sign -key FILE NAME…    writes NAME.minisig beside each NAME
//	release verify -pub FILE NAME…  compares each NAME with its NAME.minisig
//	release pack -key FILE -version V -commit C -o OUT EXECUTABLE
//	                                writes the upgrade file of an executable
//	release show -pub FILE NAME     verifies an upgrade file, prints its manifest
//
// Private keys have no password: keep them where nobody else reads.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"skiff/internal/atomicfile"
	"skiff/pkg/datastore/schema"
	"skiff/pkg/release"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// options are the flags of all subcommands.
type options struct {
	key, pub, out string
	manifest      release.Manifest
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("want keygen, public, sign, verify, pack or show")
	}
	var o options
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.StringVar(&o.key, "key", "", "private key")
	flags.StringVar(&o.pub, "pub", "", "public key")
	flags.StringVar(&o.out, "o", "", "file to write")
	flags.StringVar(&o.manifest.Version, "version", "", "version of skiff")
	flags.StringVar(&o.manifest.Commit, "commit", "", "commit of skiff")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	commands := map[string]func(options, []string) error{
		"keygen": keygen, "public": public, "sign": sign, "verify": verify, "pack": pack, "show": show,
	}
	command, ok := commands[args[0]]
	if !ok {
		return fmt.Errorf("unknown command %q; want keygen, public, sign, verify, pack or show", args[0])
	}
	if err := command(o, flags.Args()); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}

// keygen never replaces a key: what it has signed would be worth nothing.
func keygen(_ options, names []string) error {
	if len(names) != 1 {
		return errors.New("want one file name")
	}
	if _, err := os.Lstat(names[0]); err == nil {
		return fmt.Errorf("%s is there already", names[0])
	}
	signer, err := release.NewSigner()
	if err != nil {
		return err
	}
	private, err := signer.Text()
	if err != nil {
		return err
	}
	key, err := signer.Key()
	if err != nil {
		return err
	}
	text, err := key.Text()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(names[0]), 0o755); err != nil {
		return err
	}
	return errors.Join(atomicfile.Write(names[0], private, 0o600), atomicfile.Write(names[0]+".pub", text, 0o644))
}

func public(o options, _ []string) error {
	signer, err := release.ReadSigner(o.key)
	if err != nil {
		return err
	}
	key, err := signer.Key()
	if err != nil {
		return err
	}
	text, err := key.Text()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}

func sign(o options, names []string) error {
	signer, err := release.ReadSigner(o.key)
	if err != nil {
		return err
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		signature, err := signer.Sign(text, "file:"+filepath.Base(name))
		if err != nil {
			return err
		}
		if err := atomicfile.Write(name+".minisig", signature, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func verify(o options, names []string) error {
	key, err := release.ReadKey(o.pub)
	if err != nil {
		return err
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		signature, err := os.ReadFile(name + ".minisig")
		if err != nil {
			return err
		}
		if err := key.Verify(text, signature); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func pack(o options, names []string) (err error) {
	if len(names) != 1 || o.out == "" {
		return errors.New("want one executable, and -o")
	}
	signer, err := release.ReadSigner(o.key)
	if err != nil {
		return err
	}
	m, err := release.Describe(names[0])
	if err != nil {
		return err
	}
	m.Version, m.Commit, m.Schema = o.manifest.Version, o.manifest.Commit, schema.Version
	executable, err := os.Open(names[0])
	if err != nil {
		return err
	}
	defer executable.Close()
	out, err := os.Create(o.out)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err != nil {
			os.Remove(o.out)
		}
	}()
	b := bufio.NewWriterSize(out, 1<<20)
	if err := release.Write(b, m, executable, signer, release.Small); err != nil {
		return err
	}
	return b.Flush()
}

func show(o options, names []string) error {
	key, err := release.ReadKey(o.pub)
	if err != nil {
		return err
	}
	if len(names) != 1 {
		return errors.New("want one upgrade file")
	}
	f, err := os.Open(names[0])
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := release.Open(f, key)
	if err != nil {
		return err
	}
	if err := r.Extract(io.Discard); err != nil {
		return err
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(r.Manifest)
}
