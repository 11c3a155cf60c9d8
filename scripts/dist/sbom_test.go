package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Test executables have no modules in them, as the go command builds them; so
// this is a build that never was.
func TestModules(t *testing.T) {
	cache := t.TempDir()
	for name, text := range map[string]string{
		"github.com/!burnt!sushi/toml@v1.6.0/COPYING":            "Permission is hereby granted, free of charge, to any person obtaining a copy",
		"k8s.io/api@v0.36.3/LICENSE":                             "Apache License\nVersion 2.0, January 2004",
		"github.com/mattn/go-sqlite3@v1.14.52/LICENSE":           "nothing that is known",
		"github.com/mattn/go-sqlite3@v1.14.52/sqlite3-binding.h": "#define SQLITE_VERSION        \"3.51.2\"\n",
	} {
		file := filepath.Join(cache, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	build := &debug.BuildInfo{GoVersion: "go1.26.8", Deps: []*debug.Module{
		{Path: "github.com/BurntSushi/toml", Version: "v1.6.0"},
		{Path: "k8s.io/api", Version: "v0.0.0", Replace: &debug.Module{Path: "k8s.io/api", Version: "v0.36.3"}},
		{Path: "github.com/mattn/go-sqlite3", Version: "v1.14.52"},
		{Path: "example.com/not/in/the/cache", Version: "v1.0.0"},
	}}
	b := &bill{o: options{modcache: cache}, arch: "arm64", known: map[string]*spdxPackage{}}
	if err := errors.Join(b.addModules("SPDXRef-skiff", build), b.addSQLite(build)); err != nil {
		t.Fatal(err)
	}
	got := map[string][3]string{}
	for _, p := range b.known {
		got[p.Name] = [3]string{p.Version, p.LicenseDeclared, p.References[0].Locator}
	}
	want := map[string][3]string{
		"stdlib":                       {"1.26.8", "BSD-3-Clause", "pkg:golang/stdlib@1.26.8"},
		"github.com/BurntSushi/toml":   {"v1.6.0", "MIT", "pkg:golang/github.com/BurntSushi/toml@v1.6.0"},
		"k8s.io/api":                   {"v0.36.3", "Apache-2.0", "pkg:golang/k8s.io/api@v0.36.3"},
		"github.com/mattn/go-sqlite3":  {"v1.14.52", noAssertion, "pkg:golang/github.com/mattn/go-sqlite3@v1.14.52"},
		"sqlite":                       {"3.51.2", "blessing", "pkg:generic/sqlite@3.51.2"},
		"example.com/not/in/the/cache": {"v1.0.0", noAssertion, "pkg:golang/example.com/not/in/the/cache@v1.0.0"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
}
