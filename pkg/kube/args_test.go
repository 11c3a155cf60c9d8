package kube

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	cliflag "k8s.io/component-base/cli/flag"
)

func TestApplyArgs(t *testing.T) {
	type flags struct {
		Profiling bool
		Modes     []string
		Timeout   int
	}
	tests := []struct {
		name string
		args []string
		want flags
		errs []string // parts of the error; none means success
	}{
		{name: "nothing given", want: flags{Modes: []string{"Node", "RBAC"}, Timeout: 5}},
		{name: "value", args: []string{"request-timeout=7"}, want: flags{Modes: []string{"Node", "RBAC"}, Timeout: 7}},
		{name: "switch without value", args: []string{"profiling"}, want: flags{Profiling: true, Modes: []string{"Node", "RBAC"}, Timeout: 5}},
		{name: "a list replaces ours and then grows", args: []string{"authorization-mode=Node", "authorization-mode=Webhook"}, want: flags{Modes: []string{"Node", "Webhook"}, Timeout: 5}},
		{name: "process-wide arguments are somebody else's", args: []string{"feature-gates=A=true", "v=4"}, want: flags{Modes: []string{"Node", "RBAC"}, Timeout: 5}},
		{name: "unknown", args: []string{"request-timeut=7"}, errs: []string{`invalid --kube-apiserver-arg "request-timeut=7"`, `unknown flag "request-timeut"; did you mean "request-timeout"?`}},
		{name: "unlike anything", args: []string{"x"}, errs: []string{`unknown flag "x"`}},
		{name: "dashes", args: []string{"--profiling"}, errs: []string{"without dashes"}},
		{name: "value missing", args: []string{"request-timeout"}, errs: []string{"needs a value"}},
		{name: "value of the wrong kind", args: []string{"request-timeout=soon"}, errs: []string{`set flag "request-timeout"`}},
		{name: "logging is shared", args: []string{"logging-format=json"}, errs: []string{"share skiff's log"}},
		{name: "all mistakes are reported", args: []string{"a1=1", "b2=2"}, errs: []string{"a1=1", "b2=2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := flags{Modes: []string{"Node", "RBAC"}, Timeout: 5}
			var sets cliflag.NamedFlagSets
			fs := sets.FlagSet("one")
			fs.BoolVar(&got.Profiling, "profiling", false, "")
			fs.StringSliceVar(&got.Modes, "authorization-mode", got.Modes, "")
			fs = sets.FlagSet("two")
			fs.IntVar(&got.Timeout, "request-timeout", got.Timeout, "")
			fs.String("logging-format", "text", "")
			err := ApplyArgs("kube-apiserver-arg", sets, tt.args)
			if (err != nil) != (len(tt.errs) > 0) {
				t.Fatalf("ApplyArgs = %v", err)
			}
			for _, want := range tt.errs {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("ApplyArgs = %v, want it to contain %q", err, want)
				}
			}
			if len(tt.errs) > 0 {
				return
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("flags (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMergeGates(t *testing.T) {
	gates := map[string]string{}
	if err := mergeGates(gates, "kubelet-arg", "A=true,B=false"); err != nil {
		t.Fatal(err)
	}
	if err := mergeGates(gates, "kube-proxy-arg", "A=true"); err != nil {
		t.Errorf("the same value twice: %v", err)
	}
	if diff := cmp.Diff(map[string]string{"A": "true", "B": "false"}, gates); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"A=false", "C"} {
		if err := mergeGates(gates, "kube-proxy-arg", bad); err == nil || !strings.Contains(err.Error(), "--kube-proxy-arg") {
			t.Errorf("mergeGates(%q) = %v, want an error that names the option", bad, err)
		}
	}
}
