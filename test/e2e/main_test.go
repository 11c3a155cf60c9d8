// Package e2e holds the scenarios that the built skiff binary must pass, told
// as prose on top of test/hosts. They use skiff only as a person would: the
// command line, files in its directories, the Kubernetes API and the network.
// Start reading at node_test.go.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"skiff/test/hosts"
	"skiff/test/images"
)

// toolArchive is the archive of the image images.Tool, made once per run.
var toolArchive string

func TestMain(m *testing.M) {
	hosts.Init()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	if err := hosts.Reap(); err != nil {
		return 0, fmt.Errorf("remove what an earlier run has left: %w", err)
	}
	dir, err := os.MkdirTemp("", "skiff-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	repo, err := filepath.Abs("../..")
	if err != nil {
		return 0, err
	}
	if toolArchive, err = images.WriteTool(repo, dir); err != nil {
		return 0, err
	}
	// Scenarios wait more than they compute, but many have two or three hosts.
	flag.Parse()
	if err := flag.Set("test.parallel", "5"); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// imagesDir is where skiff imports image archives from.
const imagesDir = "/var/lib/skiff/agent/images"

// newHost makes a host that has the test image on its disk.
func newHost(t *testing.T, opts ...hosts.Option) *hosts.Host {
	t.Helper()
	h := hosts.New(t, opts...)
	copyImage(t, h, toolArchive, "tool.tar")
	return h
}

// copyImage puts an archive into the host's images directory, by rename.
func copyImage(t *testing.T, h *hosts.Host, archive, name string) {
	t.Helper()
	b, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	h.WriteFile(imagesDir+"/"+name, string(b))
}
