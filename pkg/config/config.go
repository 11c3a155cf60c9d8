// Package config holds skiff's configuration: one struct, one table of
// options that binds flags, environment and file keys to it, and the steps
// Load → Complete that turn input into something a component may trust. It
// knows no Kubernetes types. Start reading at Config, then options.go.
package config

import (
	"net/netip"
	"slices"
	"time"

	"skiff/pkg/paths"
)

// Role says which of skiff's commands a configuration is for.
type Role int

// Roles are bit flags, so that an option can belong to several.
const (
	RoleServer Role = 1 << iota
	RoleAgent
)

// Config is what a person wrote, with defaults filled in for what he did not.
// It is plain input: nothing in it has been looked up on the machine.
type Config struct {
	File    string // the configuration file that was asked for; "" means the default one
	DataDir string
	Log     Log
	Join    Join
	Node    Node
	Cluster Cluster
	Server  Server
	Agent   Agent
	// Extra holds arguments for the embedded components, as written by the
	// user without leading dashes ("v=4"), in order.
	Extra Extra
}

// Log says what is logged and where.
type Log struct {
	Debug bool
	File  string // also append to this file; empty means standard error only
}

// Join holds the secrets by which machines join, each as text or as the name of
// the file it is in; token.Read reads them.
type Join struct {
	Token, TokenFile string
	// AgentToken lets agents join only. Servers have it.
	AgentToken, AgentTokenFile string
}

// Node configures the part of skiff that runs pods. Servers have one too,
// unless Server.DisableAgent is set.
type Node struct {
	Name            string       // default: the host name, lower case
	WithID          bool         // add Facts.NodeID to the name
	IP              []netip.Addr // default: the address of the default route, else an internal one
	Labels          []string     // "key=value"
	Taints          []string     // "key=value:Effect"
	ResolvConf      string       // resolver file for pods and cluster DNS; "" is the host's own
	Snapshotter     string       // "auto", "overlayfs" or "native"
	PauseImage      string       // default: the image skiff makes itself
	PrivateRegistry string       // path of registries.yaml
	ExternalIP      []netip.Addr // by which the node is reached from outside, if not by IP
	FlannelIface    string       // interface by which other nodes are reached; "" is the one with IP
	StoragePath     string       // directory of local-path volumes; default paths.Layout.Storage
	// NoDefaultEndpoint keeps registries that have mirrors from being asked
	// themselves.
	NoDefaultEndpoint bool
	DefaultRuntime    string // name of a runtime found in PATH; "" is runc
}

// Cluster configures what all nodes of the cluster share. An agent is told by
// its server.
type Cluster struct {
	PodCIDR        []netip.Prefix
	ServiceCIDR    []netip.Prefix
	NodePortRange  string       // "30000-32767"
	DNS            []netip.Addr // default: the tenth address of ServiceCIDR
	Domain         string
	FlannelBackend string // "vxlan", "host-gw", "wireguard-native" or "none"
	// FlannelExternalIP makes nodes reach each other by Node.ExternalIP.
	FlannelExternalIP bool
	// FlannelIPv6Masq hides pods with public IPv6 addresses behind their node's.
	FlannelIPv6Masq bool
	// EgressSelectorMode says what the API server reaches through the nodes'
	// tunnels: "agent", "pod", "cluster" or "disabled".
	EgressSelectorMode string
}

// Server configures the control plane.
type Server struct {
	BindAddress         netip.Addr
	Port                int           // the one TLS port: supervisor and Kubernetes API
	AdvertiseAddress    netip.Addr    // default: the node's address
	TLSSAN              []string      // extra names and addresses in the serving certificate
	DatastoreEndpoint   string        // "" means SQLite below the data directory
	DatastoreDurability string        // "full", "balanced", "relaxed"; "" means full
	SnapshotInterval    time.Duration // 0 means no scheduled snapshots
	SnapshotKeep        int           // how many scheduled snapshots are kept
	SnapshotDir         string        // default paths.Layout.Snapshots
	WriteKubeconfig     string        // default paths.Layout.AdminKubeconfig
	WriteKubeconfigMode string        // octal file mode, default 0600
	Disable             []string      // names of bundled parts and manifests to leave out
	DisableAgent        bool          // run the control plane only
	LeafLifetime        time.Duration // validity of leaf certificates, default one year
}

// Agent configures a node that runs no control plane.
type Agent struct {
	Server    string // URL of a server; complete with scheme and port after Complete
	LBPort    int    // of the load balancer on the loopback interface
	DisableLB bool   // talk to Server directly
}

// Extra holds pass-through arguments for the embedded upstream components.
type Extra struct {
	APIServer         []string
	ControllerManager []string
	Scheduler         []string
	CloudController   []string
	Kubelet           []string
	KubeProxy         []string
}

// completed is Config with every blank filled in from Facts, and what follows
// from it.
type completed struct {
	Config

	Paths paths.Layout
	Role  Role
	// InternalAddress is set when the host has no usable address of its own:
	// skiff then puts this address on the loopback interface, and it is also
	// Node.IP[0]. See docs/adr on loopback-only hosts.
	InternalAddress netip.Addr
	// ChosenIP and ChosenAdvertise say that Node.IP and Server.AdvertiseAddress
	// are skiff's choice and follow the host's addresses; see Readdress.
	ChosenIP        bool
	ChosenAdvertise bool
	// KubernetesServiceIP is the first address of the service range.
	KubernetesServiceIP netip.Addr
	// Hostname is the host's own name, for certificates.
	Hostname string

	input Config // what was completed; see In
	facts Facts
}

// Completed is a Config that has been completed and validated. Only
// Config.Complete makes one, which is why server.New and agent.New ask for it.
// All fields of Config and of completed are promoted; treat them as read-only.
type Completed struct{ *completed }

// Disabled reports whether the user asked to leave out the named part.
func (c Completed) Disabled(name string) bool {
	return slices.ContainsFunc(c.Server.Disable, func(asked string) bool { return disabledName(asked) == name })
}

// InCluster is the configuration of an agent that has learned about its
// cluster: which settings all nodes share, and which parts are left out
// everywhere. Until then Cluster is empty, and the node has an address of each
// family of the host.
func (c Completed) InCluster(shared Cluster, disabled []string) (Completed, error) {
	next := c.input
	next.Cluster, next.Server.Disable = shared, disabled
	return next.complete(c.Role, c.facts)
}

// APIURL is where the components of an agent find the API: at the node's load
// balancer, if there is one.
func (c Completed) APIURL() string {
	if c.Agent.DisableLB {
		return c.Agent.Server
	}
	return "https://" + netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(c.Agent.LBPort)).String() //nolint:gosec // Ports are validated.
}

// LocalURL is how everything on a server reaches its own port: by the loopback
// address, unless --bind-address leaves that out.
func (c Completed) LocalURL() string {
	host := c.Server.BindAddress
	if host.IsUnspecified() {
		// That of IPv6 takes IPv4 as well, which the loopback interface always has.
		host = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return "https://" + netip.AddrPortFrom(host, uint16(c.Server.Port)).String()
}

// KubernetesServiceIPs are the addresses that the API's Service may have, one
// for each IP family.
func (c Completed) KubernetesServiceIPs() []netip.Addr {
	var out []netip.Addr
	for _, p := range c.Cluster.ServiceCIDR {
		out = append(out, nth(p, 1))
	}
	return out
}
