package config

import (
	"net/netip"
	"strings"
	"time"

	"skiff/pkg/paths"
)

// Option is one setting: a flag, an environment variable and a key of the
// configuration file at once, and the place in Config they all mean.
type Option struct {
	Name    string
	Aliases []string // one-letter flags
	Env     string   // default: SKIFF_ and the name in upper case
	Usage   string   // one line, lower case, no full stop
	// DefaultText describes a default that Complete works out on the machine.
	// Other defaults are read from Default().
	DefaultText string
	Section     string // heading in help and in the reference
	Roles       Role
	EnvOnly     bool // neither a flag nor a file key; for tests and rare cases
	FlagOnly    bool // not a file key: it says where the file is
	Secret      bool // a URL that may hold a password: masked when printed
	Hidden      bool // is a password: never printed
	Bind        func(*Config) Value
}

// Kind is how the option's value is written.
func (o Option) Kind() Kind { return o.Bind(&Config{}).Kind }

// Default returns a Config with every default that does not depend on the machine.
func Default() *Config {
	return &Config{
		DataDir: paths.DefaultData,
		Node:    Node{Snapshotter: "auto"},
		Cluster: Cluster{
			PodCIDR:        []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
			ServiceCIDR:    []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
			NodePortRange:  "30000-32767",
			Domain:         "cluster.local",
			FlannelBackend: "vxlan",

			EgressSelectorMode: "agent",
		},
		Agent: Agent{LBPort: 6444},
		Server: Server{
			BindAddress:         netip.IPv4Unspecified(),
			Port:                6443,
			WriteKubeconfigMode: "0600",
			LeafLifetime:        365 * 24 * time.Hour,
			SnapshotInterval:    12 * time.Hour,
			SnapshotKeep:        5,
		},
	}
}

// ConfigFlag names the option that says where the configuration file is.
const ConfigFlag = "config"

// Options is the option table, in the order of the reference.
func Options() []Option {
	both := RoleServer | RoleAgent
	var all []Option
	section := func(name string, roles Role, options ...Option) {
		for _, o := range options {
			o.Section, o.Roles = name, roles
			if o.Env == "" {
				o.Env = "SKIFF_" + strings.ToUpper(strings.ReplaceAll(o.Name, "-", "_"))
			}
			all = append(all, o)
		}
	}
	section("General", both, generalOptions()...)
	section("Joining", both, joinOptions()...)
	section("Joining", RoleServer, agentTokenOptions()...)
	section("Joining", RoleAgent, agentOptions()...)
	section("API server address", RoleServer, listenerOptions()...)
	section("Cluster network", RoleServer, clusterOptions()...)
	section("Kubeconfig", RoleServer, kubeconfigOptions()...)
	section("Datastore and bundled parts", RoleServer, serverOptions()...)
	section("Node", both, nodeOptions()...)
	section("Arguments for the control plane's components", RoleServer, serverArgOptions()...)
	section("Arguments for the node's components", both, nodeArgOptions()...)
	return all
}

func generalOptions() []Option {
	return []Option{
		{
			Name: ConfigFlag, Aliases: []string{"c"}, Env: "SKIFF_CONFIG_FILE", FlagOnly: true,
			Usage:       "read settings from this file, and then from the *.yaml files of the directory with the same name and .d appended",
			DefaultText: paths.New(paths.DefaultData).ConfigFile(),
			Bind:        func(c *Config) Value { return stringValue(&c.File) },
		},
		{
			Name: "data-dir", Aliases: []string{"d"},
			Usage: "keep all state in this directory",
			Bind:  func(c *Config) Value { return stringValue(&c.DataDir) },
		},
		{
			Name:  "debug",
			Usage: "log how decisions are made, too",
			Bind:  func(c *Config) Value { return boolValue(&c.Log.Debug) },
		},
		{
			Name: "log", Aliases: []string{"l"},
			Usage: "also append the log to this file",
			Bind:  func(c *Config) Value { return stringValue(&c.Log.File) },
		},
	}
}

func agentOptions() []Option {
	return []Option{
		{
			Name: "server", Aliases: []string{"s"}, Env: "SKIFF_URL",
			Usage: "address of a server of the cluster to join, as https://192.168.1.10:6443",
			Bind:  func(c *Config) Value { return stringValue(&c.Agent.Server) },
		},
		{
			Name:  "lb-server-port",
			Usage: "TCP port on 127.0.0.1 through which this node reaches the servers",
			Bind:  func(c *Config) Value { return intValue(&c.Agent.LBPort) },
		},
		{
			Name:  "disable-apiserver-lb",
			Usage: "talk to --server directly instead; it should be a load balancer itself",
			Bind:  func(c *Config) Value { return boolValue(&c.Agent.DisableLB) },
		},
	}
}

func listenerOptions() []Option {
	return []Option{
		{
			Name:  "bind-address",
			Usage: "accept connections to the API on this address only",
			Bind:  func(c *Config) Value { return addrValue(&c.Server.BindAddress) },
		},
		{
			Name:  "https-listen-port",
			Usage: "TCP port of the API and of joining nodes",
			Bind:  func(c *Config) Value { return intValue(&c.Server.Port) },
		},
		{
			Name:        "advertise-address",
			Usage:       "address by which nodes and pods reach this server",
			DefaultText: "the bind address if it is a specific one, else the first node-ip",
			Bind:        func(c *Config) Value { return addrValue(&c.Server.AdvertiseAddress) },
		},
		{
			Name:  "tls-san",
			Usage: "further host names and addresses that the server's certificate is valid for",
			Bind:  func(c *Config) Value { return listValue(KindList, &c.Server.TLSSAN, nonEmpty) },
		},
		{
			Name: "cert-lifetime-days", EnvOnly: true,
			Usage: "validity of issued certificates in days; they are renewed while skiff runs",
			Bind:  func(c *Config) Value { return daysValue(&c.Server.LeafLifetime) },
		},
	}
}

func clusterOptions() []Option {
	return []Option{
		{
			Name:  "cluster-cidr",
			Usage: "address range of pods; one per IP family",
			Bind:  func(c *Config) Value { return prefixesValue(&c.Cluster.PodCIDR) },
		},
		{
			Name:  "service-cidr",
			Usage: "address range of services; one per IP family, and of the same families as cluster-cidr",
			Bind:  func(c *Config) Value { return prefixesValue(&c.Cluster.ServiceCIDR) },
		},
		{
			Name:  "service-node-port-range",
			Usage: "ports for services of type NodePort",
			Bind:  func(c *Config) Value { return stringValue(&c.Cluster.NodePortRange) },
		},
		{
			Name:        "cluster-dns",
			Usage:       "service address of the cluster's DNS; one per IP family",
			DefaultText: "the tenth address of each service-cidr",
			Bind:        func(c *Config) Value { return addrsValue(&c.Cluster.DNS) },
		},
		{
			Name:  "cluster-domain",
			Usage: "DNS domain of the cluster",
			Bind:  func(c *Config) Value { return stringValue(&c.Cluster.Domain) },
		},
		{
			Name:  "flannel-backend",
			Usage: "how pods of different nodes reach each other: vxlan, host-gw (nodes in one layer 2 network), wireguard-native (encrypted), or none (bring your own CNI plug-in)",
			Bind:  func(c *Config) Value { return stringValue(&c.Cluster.FlannelBackend) },
		},
		{
			Name:  "flannel-external-ip",
			Usage: "nodes reach each other's pods by their --node-external-ip",
			Bind:  func(c *Config) Value { return boolValue(&c.Cluster.FlannelExternalIP) },
		},
		{
			Name:  "flannel-ipv6-masq",
			Usage: "pods with public IPv6 addresses, too, talk to the outside by the address of their node",
			Bind:  func(c *Config) Value { return boolValue(&c.Cluster.FlannelIPv6Masq) },
		},
		{
			Name:  "egress-selector-mode",
			Usage: "what the API server reaches through the connection each agent keeps open to it: agent (kubelets), pod (and pods, by the ranges of nodes), cluster (and pods, by their addresses; for CNI plug-ins with ranges of their own), or disabled (agents must accept connections)",
			Bind:  func(c *Config) Value { return stringValue(&c.Cluster.EgressSelectorMode) },
		},
	}
}

func kubeconfigOptions() []Option {
	return []Option{
		{
			Name: "write-kubeconfig", Aliases: []string{"o"}, Env: "SKIFF_KUBECONFIG_OUTPUT",
			Usage:       "write the administrator's kubeconfig to this file",
			DefaultText: paths.New(paths.DefaultData).AdminKubeconfig(),
			Bind:        func(c *Config) Value { return stringValue(&c.Server.WriteKubeconfig) },
		},
		{
			Name: "write-kubeconfig-mode", Env: "SKIFF_KUBECONFIG_MODE",
			Usage: "octal file mode of that kubeconfig; 0644 lets every user of this machine administer the cluster",
			Bind:  func(c *Config) Value { return stringValue(&c.Server.WriteKubeconfigMode) },
		},
	}
}

func serverOptions() []Option {
	return []Option{
		{
			Name: "datastore-endpoint", Secret: true,
			Usage:       "where the cluster's objects are kept: a sqlite://, postgres://, mysql:// or http(s):// (etcd) URL",
			DefaultText: "a SQLite file below the data directory",
			Bind:        func(c *Config) Value { return stringValue(&c.Server.DatastoreEndpoint) },
		},
		{
			Name:        "datastore-durability",
			Usage:       "when a write to the SQLite datastore is on the disk: full (before it is acknowledged), balanced (within 100 ms) or relaxed (when the operating system thinks fit, as in K3s)",
			DefaultText: "full",
			Bind:        func(c *Config) Value { return stringValue(&c.Server.DatastoreDurability) },
		},
		{
			Name:  "snapshot-interval",
			Usage: "make a snapshot of the server (SQLite datastore, certificates, token, configuration) this often; 0 for never",
			Bind:  func(c *Config) Value { return durationValue(&c.Server.SnapshotInterval) },
		},
		{
			Name:  "snapshot-keep",
			Usage: "how many of the snapshots made at the interval are kept",
			Bind:  func(c *Config) Value { return intValue(&c.Server.SnapshotKeep) },
		},
		{
			Name:        "snapshot-dir",
			Usage:       "keep snapshots in this directory; one on another disk survives this one",
			DefaultText: "server/snapshots below the data directory",
			Bind:        func(c *Config) Value { return stringValue(&c.Server.SnapshotDir) },
		},
		{
			Name:  "disable",
			Usage: "leave out this bundled part (" + strings.Join(PartNames(), ", ") + ") or manifest, this by the name of its file",
			Bind:  func(c *Config) Value { return listValue(KindList, &c.Server.Disable, nonEmpty) },
		},
		{
			Name:  "disable-agent",
			Usage: "run the control plane only: this server is not a node and runs no pods",
			Bind:  func(c *Config) Value { return boolValue(&c.Server.DisableAgent) },
		},
	}
}

func nodeOptions() []Option {
	return []Option{
		{
			Name:        "node-name",
			Usage:       "name of this node in the cluster",
			DefaultText: "the host name in lower case",
			Bind:        func(c *Config) Value { return stringValue(&c.Node.Name) },
		},
		{
			Name:  "with-node-id",
			Usage: "add eight random hexadecimal digits, which this machine keeps, to the node's name; for machines that share a host name",
			Bind:  func(c *Config) Value { return boolValue(&c.Node.WithID) },
		},
		{
			Name:        "node-ip",
			Usage:       "address of this node; one per IP family",
			DefaultText: "the address of the default route, else any address of the host, else one that skiff adds",
			Bind:        func(c *Config) Value { return addrsValue(&c.Node.IP) },
		},
		{
			Name:  "node-external-ip",
			Usage: "address by which this node is reached from outside, as on a router that translates addresses; one per IP family",
			Bind:  func(c *Config) Value { return addrsValue(&c.Node.ExternalIP) },
		},
		{
			Name:        "flannel-iface",
			Usage:       "network interface by which other nodes are reached",
			DefaultText: "the one with the node-ip",
			Bind:        func(c *Config) Value { return stringValue(&c.Node.FlannelIface) },
		},
		{
			Name:  "node-label",
			Usage: "label KEY=VALUE the node registers with",
			Bind:  func(c *Config) Value { return listValue(KindList, &c.Node.Labels, nonEmpty) },
		},
		{
			Name:  "node-taint",
			Usage: "taint KEY=VALUE:EFFECT the node registers with",
			Bind:  func(c *Config) Value { return listValue(KindList, &c.Node.Taints, nonEmpty) },
		},
		{
			Name:        "resolv-conf",
			Usage:       "file with the name servers that pods and the cluster's DNS ask for outside names",
			DefaultText: "the host's own",
			Bind:        func(c *Config) Value { return stringValue(&c.Node.ResolvConf) },
		},
		{
			Name:  "snapshotter",
			Usage: "how image layers are stored: overlayfs, native, or auto (overlayfs where the data directory allows it)",
			Bind:  func(c *Config) Value { return stringValue(&c.Node.Snapshotter) },
		},
		{
			Name:        "pause-image",
			Usage:       "image of the container that holds a pod's namespaces",
			DefaultText: "one that skiff makes itself",
			Bind:        func(c *Config) Value { return stringValue(&c.Node.PauseImage) },
		},
		{
			Name:        "private-registry",
			Usage:       "file with mirrors and credentials of image registries",
			DefaultText: paths.New(paths.DefaultData).RegistriesFile(),
			Bind:        func(c *Config) Value { return stringValue(&c.Node.PrivateRegistry) },
		},
		{
			Name:        "default-local-storage-path",
			Usage:       "directory of this node in which volumes of StorageClass local-path are made",
			DefaultText: "storage below the data directory",
			Bind:        func(c *Config) Value { return stringValue(&c.Node.StoragePath) },
		},
		{
			Name:  "disable-default-registry-endpoint",
			Usage: "pull images of a registry that has mirrors from these only, never from itself",
			Bind:  func(c *Config) Value { return boolValue(&c.Node.NoDefaultEndpoint) },
		},
		{
			Name:        "default-runtime",
			Usage:       "what runs the pods that name no RuntimeClass: the name of a runtime found in PATH, as nvidia or crun",
			DefaultText: "runc",
			Bind:        func(c *Config) Value { return stringValue(&c.Node.DefaultRuntime) },
		},
	}
}

func serverArgOptions() []Option {
	return []Option{
		argOption("kube-apiserver", func(e *Extra) *[]string { return &e.APIServer }),
		argOption("kube-controller-manager", func(e *Extra) *[]string { return &e.ControllerManager }),
		argOption("kube-scheduler", func(e *Extra) *[]string { return &e.Scheduler }),
		argOption("kube-cloud-controller-manager", func(e *Extra) *[]string { return &e.CloudController }),
	}
}

func nodeArgOptions() []Option {
	return []Option{
		argOption("kubelet", func(e *Extra) *[]string { return &e.Kubelet }),
		argOption("kube-proxy", func(e *Extra) *[]string { return &e.KubeProxy }),
	}
}

func argOption(component string, field func(*Extra) *[]string) Option {
	return Option{
		Name:  component + "-arg",
		Usage: "NAME=VALUE for " + component + ", as its own flag without dashes",
		Bind:  func(c *Config) Value { return listValue(KindArgs, field(&c.Extra), cleanArg) },
	}
}

// OptionsFor is the part of the table that a role uses.
func OptionsFor(role Role) []Option {
	var out []Option
	for _, o := range Options() {
		if o.Roles&role != 0 {
			out = append(out, o)
		}
	}
	return out
}
