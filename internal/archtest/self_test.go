package archtest

import (
	"go/ast"
	"go/parser"
	"testing"
)

// The rules pass on a tree that obeys them, so their teeth are tested here.

func TestWithin(t *testing.T) {
	tests := []struct {
		path, of string
		want     bool
	}{
		{"pkg/server", "pkg/server", true},
		{"pkg/server/front", "pkg/server", true},
		{"pkg/serverless", "pkg/server", false},
		{"pkg/server", "pkg/server/...", false},
		{"pkg/server/front", "pkg/server/...", true},
	}
	for _, tt := range tests {
		if got := within(tt.path, tt.of); got != tt.want {
			t.Errorf("within(%q, %q) = %v", tt.path, tt.of, got)
		}
	}
}

func TestLevels(t *testing.T) {
	tests := []struct {
		path string
		want int
	}{
		{"internal/netx", 0},
		{"pkg/component", 1},
		{"pkg/datastore/sqlite", 2},
		{"pkg/server/front", 3},
		{"pkg/server", 4},
		{"pkg/cli", 6},
		{"cmd/skiff", 6},
		{"pkg/util", -1},
	}
	for _, tt := range tests {
		got, ok := levelOf(tt.path)
		if !ok {
			got = -1
		}
		if got != tt.want {
			t.Errorf("%s is of layer %d, want %d", tt.path, got, tt.want)
		}
	}
}

func TestSideways(t *testing.T) {
	tests := []struct {
		from, to string
		bad      bool
	}{
		{"pkg/server", "pkg/agent", true},
		{"pkg/agent/dns", "pkg/server/front", true},
		{"pkg/agent/dns", "pkg/agent/flannel", true},
		{"pkg/agent/dns/cache", "pkg/agent/dns", false},
		{"pkg/agent", "pkg/agent/dns", false},
		{"pkg/cli", "pkg/agent", false},
	}
	for _, tt := range tests {
		if why := sideways(tt.from, tt.to); (why != "") != tt.bad {
			t.Errorf("%s imports %s: %q", tt.from, tt.to, why)
		}
	}
}

func TestAbsolute(t *testing.T) {
	tests := []struct {
		text string
		want bool
	}{
		{"/var/lib/skiff", true},
		{"/etc/passwd", true},
		{"/run/x", true},
		{"/v1-skiff/join", false},
		{"/readyz", false},
		{"/proc/self/exe", false},
		{"/etc/x is missing", false},
		{"etc/x", false},
	}
	for _, tt := range tests {
		if got := absolute(tt.text); got != tt.want {
			t.Errorf("absolute(%q) = %v", tt.text, got)
		}
	}
}

func TestUsed(t *testing.T) {
	const text = `package p
import clock "time"
func init() { clock.Sleep(1); f := clock.Sleep; f(2); panic("x") }
`
	packages(t) // Only for its position table.
	s, _ := tree()
	f, err := parser.ParseFile(s.fset, "p.go", text, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]int)
	ast.Inspect(f, func(n ast.Node) bool {
		path, name := used(n, importNames(f))
		found[path+"."+name]++
		return true
	})
	for want, n := range map[string]int{"time.Sleep": 2, ".panic": 1, ".init": 1} {
		if found[want] != n {
			t.Errorf("%s is found %d times, want %d", want, found[want], n)
		}
	}
}
