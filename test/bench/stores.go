package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"

	"skiff/test/hosts"
)

// storeEndpoint is where a store of its own process listens, on its host.
const storeEndpoint = "127.0.0.1:2379"

// storeRound measures what the API bears when skiff keeps its objects in
// another store: "etcd", or "kine" as K3s has it, each as its own process.
func storeRound(p *hosts.Program, o options, store string, f figures) {
	h := hosts.New(p)
	dir, err := os.MkdirTemp("", "skiff-bench-store-")
	if err != nil {
		p.Fatalf("%v", err)
	}
	p.Cleanup(func() { _ = os.RemoveAll(dir) })
	tools := filepath.Join(hosts.Root(p), "build", "tools")
	args := []string{
		filepath.Join(tools, "etcd"), "--data-dir", dir, "--listen-client-urls", "http://" + storeEndpoint,
		"--advertise-client-urls", "http://" + storeEndpoint, "--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "error",
	}
	if store == "kine" {
		args = []string{filepath.Join(tools, "datastore-serve"), "-dir", dir, "-socket", storeEndpoint, "kine"}
	}
	if _, err := os.Stat(args[0]); err != nil {
		p.Fatalf("find %s (make bench-stores builds it): %v", store, err)
	}
	// The store ends when its standard input does.
	input, hold := io.Pipe()
	defer hold.Close()
	h.Spawn(hosts.Command{Args: args, Stdin: input, Stderr: os.Stderr})
	b := &node{Host: h, p: p, f: f, prefix: "API on " + store}
	h.StartServer("--datastore-endpoint=http://" + storeEndpoint)
	b.connect()
	h.WaitReady()
	b.apiLoad(o.objects)
	h.Stop()
}

// others are the stores of -stores.
func (o options) others() []string {
	return strings.FieldsFunc(o.stores, func(r rune) bool { return r == ',' })
}
