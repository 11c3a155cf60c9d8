package cli

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/config"
)

func TestWords(t *testing.T) {
	tests := map[string][]string{
		"":                                   nil,
		"skiff  server\t--debug\n":           {"skiff", "server", "--debug"},
		`a "b c" 'd "e' f\ g`:                {"a", "b c", `d "e`, "f g"},
		`SKIFF_TOKEN='K10::a b'`:             {"SKIFF_TOKEN=K10::a b"},
		`--kubelet-arg "a=b,c=\"d\"" ''   x`: {"--kubelet-arg", `a=b,c="d"`, "", "x"},
	}
	for text, want := range tests {
		if diff := cmp.Diff(want, words(text)); diff != "" {
			t.Errorf("words(%q): -want +got\n%s", text, diff)
		}
	}
}

func TestParseStart(t *testing.T) {
	s, ok := parseStart([]string{"/usr/local/bin/skiff", "agent", "--server", "https://a:6443", "--node-label=x=y"}, []string{"SKIFF_TOKEN=t"})
	if !ok || s.role != config.RoleAgent || len(s.environ) != 1 {
		t.Errorf("agent: %+v, %v", s, ok)
	}
	if diff := cmp.Diff(map[string][]string{"server": {"https://a:6443"}, "node-label": {"x=y"}}, s.flags); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	// These must not run.
	for _, args := range [][]string{nil, {"skiff"}, {"skiff", "snapshot", "restore", "x"}, {"skiff", "server", "--no-such-flag"}, {"other"}} {
		if _, ok := parseStart(args, nil); ok {
			t.Errorf("%q is taken for a start", args)
		}
	}
}
