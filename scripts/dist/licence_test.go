package main

import "testing"

func TestIdentify(t *testing.T) {
	const bsd = "Redistribution and use in source and binary forms, with or without\nmodification, are permitted provided that"
	tests := []struct{ name, text, want string }{
		{"nothing", "All rights reserved.", noAssertion},
		{"Apache", "                                 Apache License\n                           Version 2.0, January 2004\n", "Apache-2.0"},
		{"MIT", "Permission is hereby granted, free of charge, to any\nperson obtaining a copy of this software", "MIT"},
		{"BSD", bsd, "BSD-2-Clause"},
		{"BSD with names", bsd + "\n * Neither the name of Google Inc. nor", "BSD-3-Clause"},
		{"ISC", "Permission to use, copy, modify, and/or distribute this software for any purpose", "ISC"},
		{"MPL", "Mozilla Public License, version 2.0", "MPL-2.0"},
		{"two", "Apache License, Version 2.0\n\nPermission is hereby granted, free of charge, to any person obtaining a copy", "Apache-2.0 AND MIT"},
	}
	for _, tt := range tests {
		if got := expression(identify(tt.text)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestDebianLicence(t *testing.T) {
	tests := []struct{ name, text, want, short string }{
		{"prose", "This is the Debian prepackaged version of the GNU C Library.\n\nIt is free.\n", noAssertion, ""},
		{"machine-readable", "Format: x\n\nFiles: *\nCopyright: a\nLicense: GPL-2+\n\nFiles: debian/*\nLicense: MIT\n", "GPL-2.0-or-later", "GPL-2+"},
		{"of the packager alone", "Format: x\n\nFiles: debian/*\nLicense: MIT\n", noAssertion, ""},
		{"a choice", "Format: x\n\nFiles: *\nLicense: LGPL-3+ or GPL-2+\n", "LGPL-3.0-or-later OR GPL-2.0-or-later", "LGPL-3+ or GPL-2+"},
		{"a name of its own", "Format: x\n\nFiles: *\nLicense: Beerware\n", noAssertion, "Beerware"},
	}
	for _, tt := range tests {
		if got, short := debianLicence(tt.text); got != tt.want || short != tt.short {
			t.Errorf("%s: %q, %q; want %q, %q", tt.name, got, short, tt.want, tt.short)
		}
	}
}

func TestNames(t *testing.T) {
	if got, want := spdxID("go", "github.com/Masterminds/semver/v3", "v3.5.0+x"), "SPDXRef-go-github.com-Masterminds-semver-v3-v3.5.0-x"; got != want {
		t.Errorf("spdxID: %s, want %s", got, want)
	}
	if got, want := escaped("github.com/BurntSushi/toml"), "github.com/!burnt!sushi/toml"; got != want {
		t.Errorf("escaped: %s, want %s", got, want)
	}
}
