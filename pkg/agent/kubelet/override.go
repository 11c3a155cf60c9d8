package kubelet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/kubelet/config/v1beta1"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	conversion "k8s.io/kubernetes/pkg/kubelet/apis/config/v1beta1"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/validation"
	"sigs.k8s.io/yaml"

	"skiff/pkg/kube"
)

// dropIns are the *.conf files of dir, in the order of their names. Each is a
// KubeletConfiguration that holds only what it changes; a field set to null is
// back at upstream's default (KEP-3983).
func dropIns(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.conf"))
	if err != nil {
		return nil, fmt.Errorf("find kubelet drop-ins: %w", err)
	}
	return files, nil
}

// mergeDropIns changes c by the files. Every error names the file.
func mergeDropIns(c *kubeletconfig.KubeletConfiguration, files []string) error {
	if len(files) == 0 {
		return nil
	}
	var versioned v1beta1.KubeletConfiguration
	if err := conversion.Convert_config_KubeletConfiguration_To_v1beta1_KubeletConfiguration(c, &versioned, nil); err != nil {
		return fmt.Errorf("merge kubelet drop-ins: %w", err)
	}
	merged, err := json.Marshal(versioned)
	if err != nil {
		return fmt.Errorf("merge kubelet drop-ins: %w", err)
	}
	for _, file := range files {
		patch, err := readDropIn(file)
		if err != nil {
			return fmt.Errorf("kubelet drop-in %s: %w", file, err)
		}
		if merged, err = jsonpatch.MergePatch(merged, patch); err != nil {
			return fmt.Errorf("merge kubelet drop-in %s: %w", file, err)
		}
	}
	versioned = v1beta1.KubeletConfiguration{}
	if err := json.Unmarshal(merged, &versioned); err != nil {
		return fmt.Errorf("merge kubelet drop-ins: %w", err)
	}
	conversion.SetDefaults_KubeletConfiguration(&versioned)
	if err := conversion.Convert_v1beta1_KubeletConfiguration_To_config_KubeletConfiguration(&versioned, c, nil); err != nil {
		return fmt.Errorf("merge kubelet drop-ins: %w", err)
	}
	return nil
}

// readDropIn returns a drop-in as JSON. Upstream would let a key that it does
// not know pass in silence.
func readDropIn(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	patch, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, err
	}
	var c v1beta1.KubeletConfiguration
	d := json.NewDecoder(bytes.NewReader(patch))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return nil, fmt.Errorf("%s: want a value of type %s, not a %s", e.Field, e.Type, e.Value)
		}
		return nil, err
	}
	want := v1beta1.SchemeGroupVersion.WithKind("KubeletConfiguration")
	if c.GroupVersionKind() != want {
		return nil, fmt.Errorf("want apiVersion %s and kind %s", want.GroupVersion(), want.Kind)
	}
	return patch, nil
}

// blame finds whose fault it is that the configuration is not valid: that of
// the first drop-in with which it is not, or of the arguments.
func blame(base *kubeletconfig.KubeletConfiguration, files []string, found error) error {
	for i, file := range files {
		c := base.DeepCopy()
		if err := mergeDropIns(c, files[:i+1]); err != nil {
			return err
		}
		if err := validation.ValidateKubeletConfiguration(c, utilfeature.DefaultFeatureGate); err != nil {
			return fmt.Errorf("kubelet drop-in %s: %w", file, err)
		}
	}
	return fmt.Errorf("kubelet configuration (with --kubelet-arg): %w", found)
}

// notOurs are upstream flags that have no meaning, or would break the node,
// when the kubelet is part of skiff; the value says what to use instead.
func notOurs() map[string]string {
	return map[string]string{
		"config":                  "use drop-ins in kubelet.conf.d",
		"config-dir":              "use drop-ins in kubelet.conf.d",
		"kubeconfig":              "skiff makes the node's credentials",
		"bootstrap-kubeconfig":    "skiff makes the node's credentials",
		"hostname-override":       "use --node-name",
		"lock-file":               "skiff locks its data directory",
		"exit-on-lock-contention": "skiff locks its data directory",
		"version":                 "use `skiff version`",
		"help":                    "see the kubelet's reference on kubernetes.io",
	}
}

// parseArgs applies the user's arguments, which win over everything.
func parseArgs(f *options.KubeletFlags, c *kubeletconfig.KubeletConfiguration, args []string) error {
	set := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	set.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	f.AddFlags(set)
	options.AddKubeletConfigFlags(set, c)
	options.AddGlobalFlags(set)
	var errs []error
	for _, arg := range args {
		name, _, _ := strings.Cut(arg, "=")
		if why, no := notOurs()[name]; no {
			errs = append(errs, fmt.Errorf("invalid --kubelet-arg %q: not possible in skiff: %s", arg, why))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return kube.ApplyArgs("kubelet-arg", cliflag.NamedFlagSets{FlagSets: map[string]*pflag.FlagSet{"kubelet": set}}, args)
}
