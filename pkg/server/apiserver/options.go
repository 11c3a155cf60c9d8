package apiserver

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	apioptions "k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	"k8s.io/kubernetes/pkg/controlplane/reconcilers"

	"skiff/pkg/kube"
)

// extraArgs is the option that users pass arguments through with.
const extraArgs = "kube-apiserver-arg"

// options returns the API server's options: upstream's defaults, what skiff
// needs otherwise, and what the user passes through.
func (a *APIServer) options() (*apioptions.ServerRunOptions, error) {
	o := apioptions.NewServerRunOptions()
	// Making the flags sets some fields to their defaults: first the flags, then
	// our settings, then the user's.
	sets := o.Flags()
	if err := a.setServing(o); err != nil {
		return nil, err
	}
	a.setStorage(o)
	a.setIdentity(o)
	if err := a.setCluster(o); err != nil {
		return nil, err
	}
	if err := kube.ApplyArgs(extraArgs, sets, a.Config.Extra.APIServer); err != nil {
		return nil, err
	}
	return o, nil
}

// Issuer is the issuer of service account tokens. Pods reach it under this
// name, so that OIDC discovery works for them.
func Issuer(domain string) string { return "https://kubernetes.default.svc." + domain }

func (a *APIServer) file(name string) string {
	return filepath.Join(a.Config.Paths.ServerTLS(), name)
}

func (a *APIServer) setServing(o *apioptions.ServerRunOptions) error {
	addr, ok := a.Listener.Addr().(*net.TCPAddr)
	if !ok {
		return fmt.Errorf("listener of kube-apiserver has address %s, want TCP", a.Listener.Addr())
	}
	o.SecureServing.Listener = a.Listener
	o.SecureServing.BindAddress = addr.IP
	o.SecureServing.BindPort = addr.Port
	o.SecureServing.ServerCert.CertKey.CertFile = a.file("serving-kube-apiserver.crt")
	o.SecureServing.ServerCert.CertKey.KeyFile = a.file("serving-kube-apiserver.key")
	o.GenericServerRunOptions.AdvertiseAddress = a.Config.Server.AdvertiseAddress.AsSlice()
	o.Features.EnableProfiling = false
	return nil
}

func (a *APIServer) setStorage(o *apioptions.ServerRunOptions) {
	s := &o.Etcd.StorageConfig
	s.Transport.ServerList = a.Datastore.Servers
	s.Transport.TrustedCAFile = a.Datastore.TLS.CAFile
	s.Transport.CertFile = a.Datastore.TLS.CertFile
	s.Transport.KeyFile = a.Datastore.TLS.KeyFile
	if events := a.Events.Servers; len(events) > 0 && !slices.Equal(events, s.Transport.ServerList) {
		o.Etcd.EtcdServersOverrides = []string{"/events#" + strings.Join(events, ";")}
	}
	// Both only feed metrics (and the cost estimate of lists, which the watch
	// caches improve on), and read all keys of every resource for it.
	s.DBMetricPollInterval = 0
	s.CountMetricPollPeriod = 10 * time.Minute
	// The default reconciler proves that it lives by a write every ten
	// seconds. Who has the datastore to himself need not.
	if !a.Datastore.Shared {
		// A list that is read in pages may be gone on with for one to two of
		// these. Upstream's five minutes are too long for its own conformance
		// suite, which waits ten: nothing shares the load of compacting here,
		// and the watch caches look every 15 s only.
		s.CompactionInterval = 4 * time.Minute
		o.EndpointReconcilerType = string(reconcilers.MasterCountReconcilerType)
	}
}

// setIdentity sets who may do what, and how the API server proves who it is.
func (a *APIServer) setIdentity(o *apioptions.ServerRunOptions) {
	auth := o.Authentication
	auth.ClientCert.ClientCA = a.file("client-ca.crt")
	// As in K3s: nobody gets in without credentials, not even to /version.
	auth.Anonymous.Allow = false
	auth.RequestHeader.ClientCAFile = a.file("request-header-ca.crt")
	auth.RequestHeader.AllowedNames = []string{"system:auth-proxy"}
	auth.RequestHeader.UsernameHeaders = []string{"X-Remote-User"}
	auth.RequestHeader.UIDHeaders = []string{"X-Remote-Uid"}
	auth.RequestHeader.GroupHeaders = []string{"X-Remote-Group"}
	auth.RequestHeader.ExtraHeaderPrefixes = []string{"X-Remote-Extra-"}
	auth.ServiceAccounts.Issuers = []string{Issuer(a.Config.Cluster.Domain)}
	auth.ServiceAccounts.KeyFiles = []string{a.file("service.key")}
	o.ServiceAccountSigningKeyFile = a.file("service.key")

	o.Authorization.Modes = []string{"Node", "RBAC"}
	g := o.Admission.GenericAdmission
	g.EnablePlugins = []string{"NodeRestriction"}
	// On, because it is not among those that are off by default.
	g.Plugins.Register(heartbeatsPlugin, newHeartbeats)
	g.RecommendedPluginOrder = append(slices.Clone(g.RecommendedPluginOrder), heartbeatsPlugin)

	// Aggregated API servers and webhooks are called with this certificate;
	// their pods are called directly, since the host may lack a kube-proxy.
	o.ProxyClientCertFile = a.file("client-auth-proxy.crt")
	o.ProxyClientKeyFile = a.file("client-auth-proxy.key")
	o.EnableAggregatorRouting = true

	o.AllowPrivileged = true
	o.KubeletConfig.TLSClientConfig.CertFile = a.file("client-kube-apiserver.crt")
	o.KubeletConfig.TLSClientConfig.KeyFile = a.file("client-kube-apiserver.key")
	o.KubeletConfig.TLSClientConfig.CAFile = a.file("server-ca.crt")
	if a.Egress != nil {
		o.KubeletConfig.Lookup = lookup(a.Egress.Kubelet)
	}
	// Host names of nodes need not resolve anywhere.
	o.KubeletConfig.PreferredAddressTypes = []string{"InternalIP", "ExternalIP", "Hostname"}
}

func (a *APIServer) setCluster(o *apioptions.ServerRunOptions) error {
	c := a.Config.Cluster
	o.ServiceClusterIPRanges = prefixes(c.ServiceCIDR)
	ports, err := utilnet.ParsePortRange(c.NodePortRange)
	if err != nil {
		return fmt.Errorf("invalid --service-node-port-range %q: %w", c.NodePortRange, err)
	}
	o.ServiceNodePortRange = *ports
	return nil
}

// prefixes writes CIDRs as upstream's flags have them.
func prefixes(list []netip.Prefix) string {
	s := make([]string, len(list))
	for i, p := range list {
		s[i] = p.String()
	}
	return strings.Join(s, ",")
}
