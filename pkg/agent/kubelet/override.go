package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/kubelet/config/v1beta1"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	conversion "k8s.io/kubernetes/pkg/kubelet/apis/config/v1beta1"
	"k8s.io/kubernetes/pkg/kubelet/kubeletconfig/configfiles"
	utilfs "k8s.io/kubernetes/pkg/util/filesystem"

	"skiff/pkg/kube"
)

// mergeDropIns changes c by the *.conf files of dir, in the order of their
// names. Each is a KubeletConfiguration that holds only what it changes; a
// field set to null is back at upstream's default (KEP-3983).
func mergeDropIns(c *kubeletconfig.KubeletConfiguration, dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.conf"))
	if err != nil || len(files) == 0 {
		return err
	}
	var versioned v1beta1.KubeletConfiguration
	if err := conversion.Convert_config_KubeletConfiguration_To_v1beta1_KubeletConfiguration(c, &versioned, nil); err != nil {
		return fmt.Errorf("merge kubelet drop-ins: %w", err)
	}
	merged, err := json.Marshal(versioned)
	if err != nil {
		return fmt.Errorf("merge kubelet drop-ins: %w", err)
	}
	want := v1beta1.SchemeGroupVersion.WithKind("KubeletConfiguration")
	for _, file := range files {
		loader, err := configfiles.NewFsLoader(&utilfs.DefaultFs{}, file)
		if err != nil {
			return fmt.Errorf("read kubelet drop-in %s: %w", file, err)
		}
		patch, kind, err := loader.LoadIntoJSON()
		if err != nil {
			return fmt.Errorf("read kubelet drop-in %s: %w", file, err)
		}
		if kind == nil || *kind != want {
			return fmt.Errorf("kubelet drop-in %s: want apiVersion %s and kind %s", file, want.GroupVersion(), want.Kind)
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
