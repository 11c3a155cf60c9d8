package kubelet

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/validation"
	utiltaints "k8s.io/kubernetes/pkg/util/taints"
)

// server makes the kubelet's whole configuration: ours, then the drop-ins,
// then the user's arguments.
func (k *Kubelet) server() (*options.KubeletServer, error) {
	flags := options.NewKubeletFlags()
	if err := k.setFlags(flags); err != nil {
		return nil, err
	}
	config, err := options.NewKubeletConfiguration()
	if err != nil {
		return nil, fmt.Errorf("make kubelet configuration: %w", err)
	}
	if err := k.setConfig(config); err != nil {
		return nil, err
	}
	base := config.DeepCopy()
	files, err := dropIns(k.Layout.KubeletConfDir())
	if err != nil {
		return nil, err
	}
	if err := mergeDropIns(config, files); err != nil {
		return nil, err
	}
	if err := parseArgs(flags, config, k.Args); err != nil {
		return nil, err
	}
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(config.FeatureGates); err != nil {
		return nil, fmt.Errorf("set the kubelet's feature gates: %w", err)
	}
	if err := validation.ValidateKubeletConfiguration(config, utilfeature.DefaultFeatureGate); err != nil {
		return nil, blame(base, files, err)
	}
	if err := options.ValidateKubeletFlags(flags); err != nil {
		return nil, fmt.Errorf("kubelet flags (from --node-label and --kubelet-arg): %w", err)
	}
	return &options.KubeletServer{KubeletFlags: *flags, KubeletConfiguration: *config}, nil
}

func (k *Kubelet) setFlags(f *options.KubeletFlags) error {
	f.KubeConfig = k.Kubeconfig
	f.HostnameOverride = k.NodeName
	f.RootDirectory = k.Layout.Kubelet()
	f.CertDirectory = k.Layout.AgentTLS()
	f.CloudProvider = "external"
	ips := make([]string, 0, len(k.NodeIP))
	for _, ip := range k.NodeIP {
		ips = append(ips, ip.String())
	}
	f.NodeIP = strings.Join(ips, ",")
	if len(ips) == 0 && k.IPv6First {
		f.NodeIP = "::" // no address, but a family
	}
	var errs []error
	for _, l := range k.Labels {
		name, value, _ := strings.Cut(l, "=")
		if name == "" {
			errs = append(errs, fmt.Errorf("invalid --node-label %q: want key=value", l))
			continue
		}
		f.NodeLabels[name] = value
	}
	return errors.Join(errs...)
}

// setConfig sets what differs from upstream's defaults.
//
// Source: k8s.io/kubernetes, pkg/kubelet/apis/config/types.go.
func (k *Kubelet) setConfig(c *kubeletconfig.KubeletConfiguration) error {
	k.setSecurity(c)
	c.ContainerRuntimeEndpoint = k.Endpoint
	if k.IPv6 {
		c.Address = netip.IPv6Unspecified().String() // which takes IPv4, too
	}
	c.PodLogsDir = k.Layout.PodLogs()
	c.StaticPodPath = k.Layout.StaticPods()
	c.VolumePluginDir = k.Layout.VolumePlugins()

	c.ClusterDomain = k.ClusterDomain
	for _, a := range k.ClusterDNS {
		c.ClusterDNS = append(c.ClusterDNS, a.String())
	}
	c.ResolverConfig = k.ResolvConf
	var err error
	if c.RegisterWithTaints, err = parseTaints(k.Taints); err != nil {
		return err
	}

	c.CgroupDriver = "cgroupfs"
	if k.SystemdCgroup {
		c.CgroupDriver = "systemd"
	}
	// A host with version 1 control groups works as ever.
	c.FailCgroupV1 = false
	c.FailSwapOn = false
	c.ProtectKernelDefaults = false
	// There is no iptables, and kube-proxy does not need the kubelet's chains.
	c.MakeIPTablesUtilChains = false
	if k.OOMScoreAdj != nil {
		c.OOMScoreAdj = int32(*k.OOMScoreAdj) //nolint:gosec // From -1000 to 1000.
	}
	c.MaxOpenFiles = openFiles(c.MaxOpenFiles)

	// The lease is renewed after a quarter of this, and is nearly all that an
	// idle node writes to disk: every 25 seconds instead of 10. The controller
	// manager calls a node lost after 50. A status in which nothing has changed
	// says no more than the lease does: every 10 minutes instead of 5.
	c.NodeLeaseDurationSeconds = 100
	c.NodeStatusReportFrequency.Duration = 10 * time.Minute

	// One pull that hangs must not hold up the others.
	c.SerializeImagePulls = false
	k.setReserves(c)
	return nil
}

func (k *Kubelet) setSecurity(c *kubeletconfig.KubeletConfiguration) {
	c.TLSCertFile = filepath.Join(k.Layout.AgentTLS(), "serving-kubelet.crt")
	c.TLSPrivateKeyFile = filepath.Join(k.Layout.AgentTLS(), "serving-kubelet.key")
	// Both certificates are renewed by pkg/join; the kubelet reloads the files.
	c.ServerTLSBootstrap = false
	c.RotateCertificates = false
	c.Authentication.Anonymous.Enabled = false
	c.Authentication.Webhook.Enabled = true
	c.Authentication.X509.ClientCAFile = filepath.Join(k.Layout.AgentTLS(), "client-ca.crt")
	c.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeWebhook
	c.ReadOnlyPort = 0
}

func parseTaints(taints []string) ([]corev1.Taint, error) {
	if len(taints) == 0 {
		return nil, nil
	}
	parsed, removed, err := utiltaints.ParseTaints(taints)
	if err != nil {
		return nil, fmt.Errorf("invalid --node-taint: %w", err)
	}
	if len(removed) > 0 {
		return nil, fmt.Errorf("invalid --node-taint %q: it would remove a taint", removed[0].Key)
	}
	return parsed, nil
}

// openFiles is want, or what the process may raise its limit to.
func openFiles(want int64) int64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return want
	}
	if limit.Max < uint64(want) { //nolint:gosec // Positive by validation.
		return int64(limit.Max) //nolint:gosec // Smaller than want.
	}
	return want
}
