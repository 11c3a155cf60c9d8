package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// licence is the licence of a Go module as an SPDX expression. Of several texts
// all are named: which of them is for which file is for a person to find out.
func (b *bill) licence(module, version string) (string, error) {
	dir := b.moduleDir(module, version)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return noAssertion, nil // compiled on another machine, or a module cache that was emptied
	}
	if err != nil {
		return "", fmt.Errorf("look for the licence of %s: %w", module, err)
	}
	var found []string
	for _, e := range entries {
		if !e.Type().IsRegular() || !licenceName.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", fmt.Errorf("look for the licence of %s: %w", module, err)
		}
		found = append(found, identify(string(text))...)
	}
	return expression(found), nil
}

var licenceName = regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying)([.-].*)?$`)

// phrases are what only one licence has. The text is searched in small letters
// with single blanks.
var phrases = []struct{ id, phrase string }{
	{"Apache-2.0", "apache license version 2.0"},
	{"Apache-2.0", "apache license, version 2.0"},
	{"MIT", "permission is hereby granted, free of charge, to any person obtaining a copy"},
	{"MPL-2.0", "mozilla public license, version 2.0"},
	{"MPL-2.0", "mozilla public license version 2.0"},
	{"ISC", "permission to use, copy, modify, and/or distribute this software for any purpose"},
	{"ISC", "permission to use, copy, modify, and distribute this software for any purpose"},
	{"Unlicense", "this is free and unencumbered software released into the public domain"},
	{"CC0-1.0", "cc0 1.0 universal"},
	{"LGPL-3.0-only", "gnu lesser general public license version 3"},
	{"EPL-2.0", "eclipse public license - v 2.0"},
}

var blanks = regexp.MustCompile(`(//|[\s*#])+`)

// identify names the licences that a text contains.
func identify(text string) []string {
	text = blanks.ReplaceAllString(strings.ToLower(text), " ")
	var found []string
	for _, p := range phrases {
		if strings.Contains(text, p.phrase) {
			found = append(found, p.id)
		}
	}
	if strings.Contains(text, "redistribution and use in source and binary forms") {
		if strings.Contains(text, "neither the name") || strings.Contains(text, "names of its contributors may not be used") {
			found = append(found, "BSD-3-Clause")
		} else {
			found = append(found, "BSD-2-Clause")
		}
	}
	return found
}

func expression(found []string) string {
	if len(found) == 0 {
		return noAssertion
	}
	slices.Sort(found)
	return strings.Join(slices.Compact(found), " AND ")
}

// debianNames are Debian's short names of licences in SPDX's words.
var debianNames = map[string]string{
	"GPL-2": "GPL-2.0-only", "GPL-2+": "GPL-2.0-or-later", "GPL-3+": "GPL-3.0-or-later",
	"LGPL-2.1": "LGPL-2.1-only", "LGPL-2.1+": "LGPL-2.1-or-later", "LGPL-3+": "LGPL-3.0-or-later",
	"Expat": "MIT", "MIT": "MIT", "MIT/X11": "MIT", "X11": "X11",
	"BSD-3-clause": "BSD-3-Clause", "BSD-2-clause": "BSD-2-Clause", "ISC": "ISC", "Apache-2.0": "Apache-2.0",
}

// debianLicence reads a copyright file that is machine-readable: the licence of
// "Files: *". Files that are not give nothing.
func debianLicence(copyright string) (expression, short string) {
	for stanza := range strings.SplitSeq(copyright, "\n\n") {
		fields := map[string]string{}
		for line := range strings.Lines(stanza) {
			if name, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") {
				fields[name] = strings.TrimSpace(value)
			}
		}
		if fields["Files"] != "*" {
			continue
		}
		short = fields["License"]
		var choice []string
		for name := range strings.SplitSeq(short, " or ") {
			id, ok := debianNames[name]
			if !ok {
				return noAssertion, short
			}
			choice = append(choice, id)
		}
		return strings.Join(choice, " OR "), short
	}
	return noAssertion, ""
}
