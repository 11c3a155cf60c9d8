package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// checkLabel checks "key=value" as Kubernetes does for a node's own labels.
func checkLabel(s string) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("want KEY=VALUE")
	}
	if err := checkKey(key); err != nil {
		return err
	}
	if err := checkLabelValue(value); err != nil {
		return err
	}
	if prefix, _, found := strings.Cut(key, "/"); found && !nodeMaySet(key, prefix) {
		return fmt.Errorf("a node must not give itself the label %s; set it later with `skiff kubectl label node`", key)
	}
	return nil
}

// nodeMaySet follows the kubelet's rule for labels in the namespaces of
// Kubernetes (KEP-279 and k8s.io/kubelet/pkg/apis/well_known_labels.go).
func nodeMaySet(key, prefix string) bool {
	within := func(domain string) bool { return prefix == domain || strings.HasSuffix(prefix, "."+domain) }
	if !within("kubernetes.io") && !within("k8s.io") {
		return true
	}
	if within("kubelet.kubernetes.io") || within("node.kubernetes.io") {
		return true
	}
	return slices.Contains([]string{
		"kubernetes.io/hostname", "kubernetes.io/arch", "kubernetes.io/os",
		"beta.kubernetes.io/arch", "beta.kubernetes.io/os", "beta.kubernetes.io/instance-type",
		"topology.kubernetes.io/zone", "topology.kubernetes.io/region",
		"failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region",
	}, key)
}

// checkTaint checks "key=value:Effect" or "key:Effect".
func checkTaint(s string) error {
	rest, effect, ok := strings.Cut(s, ":")
	if !ok {
		return errors.New("want KEY=VALUE:EFFECT or KEY:EFFECT")
	}
	key, value, _ := strings.Cut(rest, "=")
	if err := checkKey(key); err != nil {
		return err
	}
	if err := checkLabelValue(value); err != nil {
		return err
	}
	effects := []string{"NoSchedule", "PreferNoSchedule", "NoExecute"}
	if !slices.Contains(effects, effect) {
		return fmt.Errorf("want one of the effects %s%s", strings.Join(effects, ", "), didYouMean(effect, effects))
	}
	return nil
}

func checkKey(key string) error {
	prefix, name, found := strings.Cut(key, "/")
	if !found {
		name = key
	} else if !isDomain(prefix) {
		return fmt.Errorf("the part of the key before / is %q, want a DNS domain", prefix)
	}
	if !isLabelText(name) {
		return fmt.Errorf("the key's name is %q, want 1 to 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit", name)
	}
	return nil
}

func checkLabelValue(value string) error {
	if value != "" && !isLabelText(value) {
		return fmt.Errorf("the value is %q, want at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit", value)
	}
	return nil
}

func isLabelText(s string) bool {
	ok, _ := regexp.MatchString(`^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`, s)
	return ok
}
