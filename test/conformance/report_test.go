package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/test/hosts"
)

// TestMain gives the test binary the driver's other lives.
func TestMain(m *testing.M) {
	hosts.Init()
	if len(os.Args) > 1 && os.Args[1] == "image" {
		if err := makeImage(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestQuick runs a dozen quick specs of the upstream suite.
func TestQuick(t *testing.T) {
	run(t, options{dir: os.Getenv("CONF"), labels: "Conformance", quick: true, procs: 2 * runtime.NumCPU(), timeout: 20 * time.Minute})
}

func TestReadReport(t *testing.T) {
	const report = `[{"SpecReports":[
	{"ContainerHierarchyTexts":["a"],"LeafNodeText":"passes","LeafNodeType":"It","State":"passed"},
	{"LeafNodeText":"","LeafNodeType":"BeforeSuite","State":"passed"},
	{"LeafNodeText":"left out","LeafNodeType":"It","State":"skipped"},
	{"LeafNodeText":"needs two nodes","LeafNodeType":"It","State":"skipped","Failure":{"Message":"only 1\nline"}},
	{"LeafNodeText":"breaks","LeafNodeType":"It","State":"panicked","Failure":{"Message":"why\nwhere"}},
	{"LeafNodeText":"","LeafNodeType":"BeforeSuite","State":"failed","Failure":{"Message":"no nodes"}}]}]`
	path := filepath.Join(t.TempDir(), "report.json")
	if err := os.WriteFile(path, []byte(report), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := readReport(path)
	if err != nil {
		t.Fatal(err)
	}
	want := summary{passed: 1, skipped: []string{"needs two nodes -- only 1"}, failed: []string{"breaks\n     why", "BeforeSuite\n     no nodes"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(summary{})); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
}

func TestQuickFocusIsARegexp(t *testing.T) {
	re, err := regexp.Compile(quickFocus())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range quickSpecs {
		if !re.MatchString("[sig-x] " + s + " [Conformance]") {
			t.Errorf("%q is not selected", s)
		}
	}
}
