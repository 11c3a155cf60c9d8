// Package kube holds what the embedded Kubernetes components share by force,
// because upstream keeps it in package variables: feature gates, log
// verbosity, the exit function, warning handlers. It is the only package that
// sets them. It also parses the users' arguments for those components. It must
// not know any single component. Start reading at Setup.
package kube

import (
	"errors"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/rest"
	basecompatibility "k8s.io/component-base/compatibility"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"

	"skiff/pkg/config"
)

// globalArgs are arguments of every component that mean the same for all of
// them, since there is one of each per process. Setup applies them.
var globalArgs = []string{"feature-gates", "emulated-version", "min-compatibility-version", "v", "vmodule"}

// Options is what Setup needs.
type Options struct {
	// Extra holds the users' arguments; those that are process-wide are taken
	// from all components together.
	Extra config.Extra
	// Gates are feature gates to change where the user has not said otherwise.
	Gates map[string]bool
	// Fail is told when a component wants the process to exit. It must make
	// the supervisor stop everything. The goroutine that asked ends.
	Fail func(error)
}

// Setup sets the process-wide state of the Kubernetes libraries. Call it once
// per process, before any component is built.
func Setup(o Options) error {
	// Components apply their logging configuration each; the first wins, and
	// all are the same.
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged
	klog.OsExit = func(code int) {
		o.Fail(fmt.Errorf("a Kubernetes component gave up with exit code %d; its last log lines say why", code))
		// Upstream's code after the call relies on it not returning.
		runtime.Goexit()
	}
	// The components use deprecated APIs knowingly.
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	return setGates(o)
}

// setGates applies our feature gates and the users', which come last.
func setGates(o Options) error {
	registry := compatibility.DefaultComponentGlobalsRegistry
	registry.ComponentGlobalsOrRegister(basecompatibility.DefaultKubeComponent, compatibility.DefaultBuildEffectiveVersion(), utilfeature.DefaultMutableFeatureGate)
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	registry.AddFlags(fs)
	var verbosity flag.FlagSet
	klog.InitFlags(&verbosity)
	// As with upstream's components, naming a gate twice is allowed when the
	// values agree; what the user says wins over ours.
	gates := make(map[string]string)
	var errs []error
	for _, a := range components(o.Extra) {
		for _, arg := range a.args {
			name, value, _ := strings.Cut(arg, "=")
			switch {
			case !slices.Contains(globalArgs, name):
			case name == "feature-gates":
				errs = append(errs, mergeGates(gates, a.option, value))
			case name == "v" || name == "vmodule":
				if err := verbosity.Set(name, value); err != nil {
					errs = append(errs, fmt.Errorf("invalid --%s %q: %w", a.option, arg, err))
				}
			default:
				if err := fs.Set(name, value); err != nil {
					errs = append(errs, fmt.Errorf("invalid --%s %q: %w", a.option, arg, err))
				}
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for name, on := range o.Gates {
		if _, ok := gates[name]; !ok {
			gates[name] = fmt.Sprint(on)
		}
	}
	for name, value := range gates {
		if err := fs.Set("feature-gates", name+"="+value); err != nil {
			return fmt.Errorf("set feature gate %s: %w", name, err)
		}
	}
	if err := registry.Set(); err != nil {
		return fmt.Errorf("set feature gates: %w", err)
	}
	return errors.Join(registry.Validate()...)
}

// mergeGates adds "A=true,B=false" to gates.
func mergeGates(gates map[string]string, option, value string) error {
	for pair := range strings.SplitSeq(value, ",") {
		name, on, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok {
			return fmt.Errorf("invalid --%s \"feature-gates=%s\": want Name=true or Name=false", option, value)
		}
		if old, ok := gates[name]; ok && old != on {
			return fmt.Errorf("invalid --%s \"feature-gates=%s\": %s is %s for another component, and there is one set of gates per process", option, value, name, old)
		}
		gates[name] = on
	}
	return nil
}

// component is one component's option and the arguments given with it.
type component struct {
	option string
	args   []string
}

func components(x config.Extra) []component {
	return []component{
		{"kube-apiserver-arg", x.APIServer},
		{"kube-controller-manager-arg", x.ControllerManager},
		{"kube-scheduler-arg", x.Scheduler},
		{"kubelet-arg", x.Kubelet},
		{"kube-proxy-arg", x.KubeProxy},
	}
}
