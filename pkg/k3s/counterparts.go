package k3s

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"skiff/pkg/config"
)

// switches are options of K3s that take no value, and are none of ours.
var switches = map[string]bool{
	"alsologtostderr": true, "cluster-init": true, "cluster-reset": true, "disable-scheduler": true, "disable-cloud-controller": true, "disable-kube-proxy": true,
	"disable-network-policy": true, "disable-helm-controller": true, "disable-apiserver": true, "disable-controller-manager": true, "disable-etcd": true,
	"embedded-registry": true, "supervisor-metrics": true, "secrets-encryption": true, "protect-kernel-defaults": true, "selinux": true, "rootless": true,
	"enable-pprof": true, "prefer-bundled-bin": true, "docker": true, "etcd-expose-metrics": true, "etcd-disable-snapshots": true, "etcd-snapshot-compress": true,
	"etcd-s3": true, "etcd-s3-skip-ssl-verify": true, "etcd-s3-insecure": true, "tls-san-security": true, "nonroot-devices": true, "kine-tls": true, "multi-cluster-cidr": true,
	"debug": true, "with-node-id": true, "disable-agent": true, "flannel-ipv6-masq": true, "flannel-external-ip": true, "disable-apiserver-lb": true, "disable-default-registry-endpoint": true,
}

// silent are settings that need no counterpart and no word.
var silent = []string{"role", "config", "config-file", "v", "vmodule", "alsologtostderr", "prefer-bundled-bin", "enable-pprof", "supervisor-metrics", "p2p-port"}

// instead says what to do about settings that have no counterpart here. A name
// that ends in a dash stands for all that begin so.
var instead = map[string]string{
	"data-dir":                          "skiff keeps its state in its own directory; set data-dir to choose another",
	"private-registry":                  "the file has been taken over, it is in skiff's place now",
	"cluster-init":                      "skiff has no embedded etcd; it needs none for one server",
	"cluster-reset":                     "use `skiff snapshot restore`",
	"etcd-":                             "skiff makes snapshots by itself: see snapshot-interval, snapshot-keep and snapshot-dir",
	"helm-job-image":                    "skiff runs Helm itself, without jobs",
	"helm-controller-arg":               "skiff runs Helm itself, without jobs",
	"secrets-encryption":                "the key is used on: see kube-apiserver-arg encryption-provider-config in the new file",
	"disable-scheduler":                 "skiff always has its scheduler",
	"disable-cloud-controller":          "skiff's node controller cannot be left out; nodes need no other one",
	"disable-kube-proxy":                "skiff's kube-proxy cannot be left out",
	"system-default-registry":           "name the registry as a mirror of docker.io and others in registries.yaml",
	"embedded-registry":                 "skiff's nodes do not share images; put archives into agent/images of each, see docs/images.md",
	"airgap-extra-registry":             "write the registry into registries.yaml",
	"container-runtime-endpoint":        "skiff always runs its own containerd",
	"docker":                            "skiff always runs its own containerd",
	"image-service-endpoint":            "skiff always uses its own containerd",
	"image-credential-provider-":        "pass image-credential-provider-config and image-credential-provider-bin-dir with kubelet-arg",
	"flannel-conf":                      "use flannel-backend, or flannel-backend none and a CNI plug-in of your own",
	"flannel-cni-conf":                  "use flannel-backend none and a CNI plug-in of your own",
	"node-internal-dns":                 "skiff's nodes have addresses only",
	"node-external-dns":                 "skiff's nodes have addresses only",
	"vpn-auth":                          "join the VPN on the host, and set node-ip and flannel-iface",
	"rootless":                          "skiff runs as root",
	"selinux":                           "skiff sets no SELinux labels",
	"datastore-cafile":                  "put the authority of the database into the host's trusted ones",
	"datastore-certfile":                "use a password in datastore-endpoint",
	"datastore-keyfile":                 "use a password in datastore-endpoint",
	"advertise-port":                    "agents and clients use https-listen-port",
	"servicelb-namespace":               "skiff's load balancer has no pods",
	"tls-san-security":                  "skiff's certificate has the names of its nodes and tls-san only",
	"write-kubeconfig-group":            "set the group of the file's directory, or write-kubeconfig-mode",
	"write-kubeconfig-name":             "rename the context in your own copy of the kubeconfig",
	"nonroot-devices":                   "set it in a file of containerd's drop-ins, see docs/runtimes.md",
	"kube-cloud-controller-manager-arg": "skiff's node controller has no arguments",
	"log-dir":                           "use log",
}

// renamed are settings that are called otherwise here.
var renamed = map[string]string{
	"kube-controller-arg": "kube-controller-manager-arg", "agent-token-file": "agent-token-file",
	"kubeconfig-output": "write-kubeconfig", "kubeconfig-mode": "write-kubeconfig-mode", "url": "server",
}

// parts are settings that leave out what --disable does here.
var parts = map[string]string{"disable-network-policy": "network-policy", "disable-helm-controller": "helm-controller"}

// kernelDefaults is the kubelet's argument here.
const kernelDefaults = "protect-kernel-defaults"

// taken is one setting as it will be in skiff's file.
type taken struct {
	option config.Option
	values []string
}

// translate says what becomes of each setting.
func (g *given) translate(role config.Role) (out []taken, report []Setting) {
	options := make(map[string]config.Option)
	for _, o := range config.Options() {
		if !o.EnvOnly && !o.FlagOnly {
			options[o.Name] = o
		}
	}
	values := make(map[string][]string)
	say := func(name string, ok bool, note string) {
		report = append(report, Setting{Name: name, From: g.from[name], Taken: ok, Note: note})
	}
	for _, name := range slices.Sorted(maps.Keys(g.values)) {
		to, given := name, g.values[name]
		if other := renamed[name]; other != "" {
			to = other
		}
		on := len(given) > 0 && given[len(given)-1] != "false"
		switch o, known := options[to]; {
		case slices.Contains(silent, name), !on && (parts[name] != "" || name == kernelDefaults):
		case parts[name] != "":
			values["disable"] = append(values["disable"], parts[name])
			say(name, true, "disable: "+parts[name])
		case name == kernelDefaults:
			values["kubelet-arg"] = append(values["kubelet-arg"], kernelDefaults+"=true")
			say(name, true, "kubelet-arg: "+kernelDefaults+"=true")
		case adviceOn(name) != "":
			if on {
				say(name, false, adviceOn(name))
			}
		case !known:
			say(name, false, "skiff has no such setting")
		default:
			kept, note := convert(to, given)
			if err := accepted(o, role, kept); err != nil {
				say(name, false, fmt.Sprintf("skiff does not take it: %v", err))
				continue
			}
			if len(kept) > 0 {
				values[to] = append(values[to], kept...)
			}
			if to != name && note == "" {
				note = to
			}
			say(name, len(kept) > 0, note)
		}
	}
	for _, o := range config.Options() {
		if v := values[o.Name]; len(v) > 0 {
			out = append(out, taken{o, v})
		}
	}
	return out, report
}

func adviceOn(name string) string {
	if text := instead[name]; text != "" {
		return text
	}
	for prefix, text := range instead {
		if strings.HasSuffix(prefix, "-") && strings.HasPrefix(name, prefix) {
			return text
		}
	}
	return ""
}

// convert makes ours of K3s' values of an option.
func convert(name string, values []string) (kept []string, note string) {
	switch name {
	case "disable":
		for _, list := range values {
			for v := range strings.SplitSeq(list, ",") {
				if v = strings.TrimSpace(v); v == "ccm" || v == "" {
					note = "ccm cannot be left out here"
					continue
				}
				if v != "traefik" && !slices.Contains(config.PartNames(), v) {
					v += ".yaml" // K3s names manifests without their extension.
				}
				kept = append(kept, v)
			}
		}
		return kept, note
	case "snapshotter":
		if v := values[len(values)-1]; v != "overlayfs" && v != "native" {
			return nil, fmt.Sprintf("skiff has no snapshotter %s and chooses one by itself", v)
		}
	case "pause-image":
		return nil, "skiff makes the pause image itself"
	case "flannel-backend":
		v, _, _ := strings.Cut(values[len(values)-1], "=")
		if !slices.Contains([]string{"vxlan", "host-gw", "wireguard-native", "none"}, v) {
			return nil, fmt.Sprintf("skiff has no flannel-backend %s; vxlan is used, wireguard-native encrypts", v)
		}
	case "datastore-endpoint":
		if strings.HasPrefix(values[len(values)-1], "nats") {
			return nil, "skiff cannot use NATS"
		}
	}
	return values, ""
}

// accepted asks skiff's own reader whether it takes the values.
func accepted(o config.Option, role config.Role, values []string) error {
	if len(values) == 0 {
		return nil
	}
	// Of a flag that is one value the last one counts.
	_, _, err := config.Load(role, config.Input{Flags: map[string][]string{o.Name: values}, DefaultFile: os.DevNull})
	return err
}

// file is skiff's configuration file for the settings.
func configFile(settings []taken, from string) ([]byte, error) {
	if len(settings) == 0 {
		return nil, nil
	}
	root := &yaml.Node{Kind: yaml.MappingNode, HeadComment: "Taken over from K3s (" + from + ") by skiff migrate-k3s."}
	for _, s := range settings {
		key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s.option.Name}
		kind := s.option.Kind()
		var value *yaml.Node
		if kind.IsList() {
			value = &yaml.Node{Kind: yaml.SequenceNode}
			for _, v := range s.values {
				value.Content = append(value.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v})
			}
		} else {
			tags := map[config.Kind]string{config.KindBool: "!!bool", config.KindNumber: "!!int", config.KindString: "!!str"}
			value = &yaml.Node{Kind: yaml.ScalarNode, Tag: tags[kind], Value: s.values[len(s.values)-1]}
		}
		root.Content = append(root.Content, key, value)
	}
	out, err := yaml.Marshal(root)
	if err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	return out, nil
}
