package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"skiff/pkg/inventory"
)

const ourLicence = "Apache-2.0"

// writeSBOM describes what is really in the executable, as the executable
// itself tells.
func writeSBOM(o options) error {
	parts, err := inventory.Read(o.skiff)
	if err != nil {
		return err
	}
	file, err := os.ReadFile(o.skiff)
	if err != nil {
		return err
	}
	b := &bill{o: o, arch: inventory.Setting(parts.Build, "GOARCH"), known: map[string]*spdxPackage{}}
	sum := sha256.Sum256(file)
	if err := b.add(parts, sum); err != nil {
		return err
	}
	data, err := json.MarshalIndent(b.document(sum), "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.out, append(data, '\n'), 0o644)
}

// bill is a bill of materials in the making.
type bill struct {
	o         options
	arch      string
	known     map[string]*spdxPackage // by SPDXID
	relations []spdxRelationship
}

func (b *bill) document(sum [sha256.Size]byte) spdxDocument {
	name := fmt.Sprintf("skiff-%s-linux-%s", b.o.version, b.arch)
	d := spdxDocument{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: spdxDocumentID, Name: name,
		// Has to be unique and need not exist: the executable's checksum makes it so.
		Namespace:    "https://skiff.invalid/spdx/" + url.PathEscape(name) + "-" + hex.EncodeToString(sum[:]),
		CreationInfo: spdxCreation{Created: b.o.created.UTC().Format(time.RFC3339), Creators: []string{"Tool: skiff-scripts-dist"}},
	}
	for _, p := range b.known {
		d.Packages = append(d.Packages, p)
	}
	slices.SortFunc(d.Packages, func(a, b *spdxPackage) int { return strings.Compare(a.ID, b.ID) })
	b.relate(spdxDocumentID, "DESCRIBES", spdxID("skiff"))
	slices.SortFunc(b.relations, func(a, b spdxRelationship) int {
		return strings.Compare(a.From+" "+a.Type+" "+a.To, b.From+" "+b.Type+" "+b.To)
	})
	d.Relationships = slices.Compact(b.relations)
	return d
}

// put adds a package unless it is there, with what is the same for all.
func (b *bill) put(p spdxPackage) string {
	if _, ok := b.known[p.ID]; !ok {
		if p.DownloadLocation == "" {
			p.DownloadLocation = noAssertion
		}
		if p.LicenseDeclared == "" {
			p.LicenseDeclared = noAssertion
		}
		p.LicenseConcluded, p.Copyright = noAssertion, noAssertion
		b.known[p.ID] = &p
	}
	return p.ID
}

func (b *bill) relate(from, how, to string) {
	b.relations = append(b.relations, spdxRelationship{from, how, to})
}

func (b *bill) add(parts *inventory.Inventory, sum [sha256.Size]byte) error {
	skiff := b.put(spdxPackage{
		ID: spdxID("skiff"), Name: "skiff", Version: b.o.version, Purpose: "APPLICATION",
		Checksums: sha256Of(sum), LicenseDeclared: ourLicence, SourceInfo: "git commit " + b.o.commit,
	})
	if err := b.addModules(skiff, parts.Build); err != nil {
		return err
	}
	if err := b.addSQLite(parts.Build); err != nil {
		return err
	}
	var programs []string // those that Debian's static libraries are in
	for _, h := range parts.Helpers {
		id, err := b.addHelper(h)
		if err != nil {
			return err
		}
		b.relate(skiff, "CONTAINS", id)
		if h.Build != nil && inventory.Setting(h.Build, "CGO_ENABLED") == "1" {
			programs = append(programs, id)
		}
	}
	for _, p := range parts.Packages {
		id := b.addDebian(p)
		if !p.Linked {
			b.relate(skiff, "CONTAINS", id)
			continue
		}
		for _, program := range programs {
			b.relate(program, "STATIC_LINK", id)
		}
		if p.Source != "libseccomp" { // runc's alone
			b.relate(skiff, "STATIC_LINK", id)
		}
	}
	return nil
}

// addHelper adds one file of the payload. What is not a Go program is ours, or
// one of Debian's, which the packages describe.
func (b *bill) addHelper(h inventory.Helper) (string, error) {
	p := spdxPackage{ID: spdxID("payload", h.Name), Name: h.Name, Purpose: "APPLICATION", Checksums: sha256Of(h.SHA256)}
	switch {
	case h.Build != nil && h.Build.Main.Version != "(devel)":
		licence, err := b.licence(h.Build.Main.Path, h.Build.Main.Version)
		if err != nil {
			return "", err
		}
		p.Version, p.LicenseDeclared = h.Build.Main.Version, licence
		p.References = purl(golangPURL(h.Build.Main.Path, h.Build.Main.Version))
	case strings.Contains(h.Name, "/"):
		p.Purpose, p.Supplier = "FILE", "Organization: Debian"
	default:
		p.Version, p.LicenseDeclared = b.o.version, ourLicence
	}
	id := b.put(p)
	if h.Build == nil {
		return id, nil
	}
	return id, b.addModules(id, h.Build)
}

// addModules adds what was linked into a Go program.
func (b *bill) addModules(program string, build *debug.BuildInfo) error {
	version := strings.TrimPrefix(strings.Fields(build.GoVersion)[0], "go")
	std := b.put(spdxPackage{
		ID: spdxID("go", "stdlib", version), Name: "stdlib", Version: version, Purpose: "LIBRARY",
		DownloadLocation: "https://go.dev/dl/go" + version + ".src.tar.gz",
		LicenseDeclared:  "BSD-3-Clause", References: purl("pkg:golang/stdlib@" + version),
	})
	b.relate(program, "DEPENDS_ON", std)
	for _, asked := range build.Deps {
		m := inventory.Effective(asked)
		licence, err := b.licence(m.Path, m.Version)
		if err != nil {
			return err
		}
		id := b.put(spdxPackage{
			ID: moduleID(m), Name: m.Path, Version: m.Version, Purpose: "LIBRARY",
			DownloadLocation: "https://proxy.golang.org/" + escaped(m.Path) + "/@v/" + escaped(m.Version) + ".zip",
			LicenseDeclared:  licence, References: purl(golangPURL(m.Path, m.Version)),
		})
		b.relate(program, "DEPENDS_ON", id)
	}
	return nil
}

func moduleID(m *debug.Module) string { return spdxID("go", m.Path, m.Version) }

// addSQLite adds the C library that is inside the Go module for it.
func (b *bill) addSQLite(build *debug.BuildInfo) error {
	for _, asked := range build.Deps {
		m := inventory.Effective(asked)
		if m.Path != "github.com/mattn/go-sqlite3" {
			continue
		}
		header, err := os.ReadFile(filepath.Join(b.moduleDir(m.Path, m.Version), "sqlite3-binding.h"))
		if err != nil {
			return fmt.Errorf("find the version of SQLite: %w", err)
		}
		found := regexp.MustCompile(`#define SQLITE_VERSION\s+"([0-9.]+)"`).FindSubmatch(header)
		if found == nil {
			return fmt.Errorf("find the version of SQLite: %s does not define it", m.Path)
		}
		version := string(found[1])
		id := b.put(spdxPackage{
			ID: spdxID("sqlite"), Name: "sqlite", Version: version, Purpose: "LIBRARY", LicenseDeclared: "blessing",
			References: append(purl("pkg:generic/sqlite@"+version), spdxRef{
				Category: "SECURITY", Type: "cpe23Type", Locator: "cpe:2.3:a:sqlite:sqlite:" + version + ":*:*:*:*:*:*:*",
			}),
		})
		b.relate(moduleID(m), "CONTAINS", id)
	}
	return nil
}

func (b *bill) addDebian(p inventory.Package) string {
	source := p.Source
	if source == "" {
		source = p.Name
	}
	licence, short := debianLicence(p.Copyright)
	comment := ""
	if short != "" {
		comment = "Debian's copyright file, for most files of the source: " + short
	}
	locator := "pkg:deb/debian/" + p.Name + "@" + url.QueryEscape(p.Version) + "?arch=" + b.arch
	if strings.HasSuffix(p.Name, "-cross") {
		locator = "pkg:deb/debian/" + p.Name + "@" + url.QueryEscape(p.Version) + "?arch=all"
	}
	return b.put(spdxPackage{
		ID: spdxID("deb", p.Name, p.Version), Name: p.Name, Version: p.Version, Purpose: "LIBRARY",
		Supplier: "Organization: Debian", SourceInfo: "built from Debian's source package " + source,
		LicenseDeclared: licence, LicenseComments: comment, References: purl(locator),
	})
}

func sha256Of(sum [sha256.Size]byte) []spdxChecksum {
	return []spdxChecksum{{Algorithm: "SHA256", Value: hex.EncodeToString(sum[:])}}
}

func golangPURL(module, version string) string {
	return "pkg:golang/" + module + "@" + url.QueryEscape(version)
}

// moduleDir is where Go keeps the source of a module.
func (b *bill) moduleDir(module, version string) string {
	return filepath.Join(b.o.modcache, escaped(module)+"@"+escaped(version))
}

// escaped is a path or version as it stands in the module cache: capital letters
// are marked, for file systems that take them for small ones.
func escaped(s string) string {
	var text strings.Builder
	for _, c := range s {
		if 'A' <= c && c <= 'Z' {
			text.WriteByte('!')
			c += 'a' - 'A'
		}
		text.WriteRune(c)
	}
	return text.String()
}
