package controllers

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kcmoptions "k8s.io/kubernetes/cmd/kube-controller-manager/app/options"

	"skiff/pkg/kube"
)

// options returns the controller manager's options: upstream's defaults, what
// skiff needs otherwise, and what the user passes through.
func (c *Controllers) options(loopback *rest.Config) (*kcmoptions.KubeControllerManagerOptions, error) {
	o, err := kcmoptions.NewKubeControllerManagerOptions()
	if err != nil {
		return nil, fmt.Errorf("make options of %s: %w", name, err)
	}
	// Making the flags sets some fields to their defaults: first the flags, then
	// our settings, then the user's.
	sets := o.Flags(app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	tls := func(file string) string { return filepath.Join(c.Config.Paths.ServerTLS(), file) }

	// Without this, upstream looks for a service account of its own pod.
	o.Master = loopback.Host
	// One server has no competitor; several will hold a lease of skiff's own.
	o.Generic.LeaderElection.LeaderElect = false
	// Health is what Ready says, metrics are those of the process.
	o.SecureServing.BindPort = 0

	o.KubeCloudShared.ClusterName = "skiff"
	o.KubeCloudShared.AllocateNodeCIDRs = true
	o.KubeCloudShared.ConfigureCloudRoutes = false
	o.KubeCloudShared.ClusterCIDR = prefixes(c.Config.Cluster.PodCIDR)
	o.NodeIPAMController.ServiceCIDR = prefixes(c.Config.Cluster.ServiceCIDR)
	// The node controller of this package's sibling takes the taint away.
	o.KubeCloudShared.CloudProvider.Name = "external"

	// Upstream creates its default, in /usr, when it is missing.
	o.PersistentVolumeBinderController.VolumeConfiguration.FlexVolumePluginDir = c.Config.Paths.VolumePlugins()

	o.SAController.ServiceAccountKeyFile = tls("service.key")
	o.SAController.RootCAFile = tls("server-ca.crt")
	// Each kind of certificate comes from the CA whose readers trust it.
	s := o.CSRSigningController
	for _, signer := range []struct {
		cert, key *string
		ca        string
	}{
		{&s.KubeletServingSignerConfiguration.CertFile, &s.KubeletServingSignerConfiguration.KeyFile, "server-ca"},
		{&s.KubeletClientSignerConfiguration.CertFile, &s.KubeletClientSignerConfiguration.KeyFile, "client-ca"},
		{&s.KubeAPIServerClientSignerConfiguration.CertFile, &s.KubeAPIServerClientSignerConfiguration.KeyFile, "client-ca"},
		{&s.LegacyUnknownSignerConfiguration.CertFile, &s.LegacyUnknownSignerConfiguration.KeyFile, "server-ca"},
	} {
		*signer.cert, *signer.key = tls(signer.ca+".crt"), tls(signer.ca+".key")
	}

	if err := kube.ApplyArgs(extraArgs, sets, c.Config.Extra.ControllerManager); err != nil {
		return nil, err
	}
	return o, nil
}

// prefixes writes CIDRs as upstream's flags have them.
func prefixes(list []netip.Prefix) string {
	s := make([]string, len(list))
	for i, p := range list {
		s[i] = p.String()
	}
	return strings.Join(s, ",")
}
