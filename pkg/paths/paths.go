// Package paths names every file, directory and socket of skiff, so that no
// other package spells an absolute path. It knows nothing about what is kept
// in them. Start reading at Layout.
package paths

import "path/filepath"

// Defaults of the roots of a Layout.
const (
	DefaultData = "/var/lib/skiff"
	DefaultEtc  = "/etc/skiff"
	DefaultRun  = "/run/skiff"
)

// Layout derives every path from a few roots. All methods are pure: nothing is
// created or looked at.
type Layout struct {
	Data string // persistent state, survives a reboot
	Etc  string // what the administrator edits, and the kubeconfig
	Run  string // sockets and other state that a reboot may remove
}

// New returns the layout below the data directory, with the default /etc and
// /run roots.
func New(data string) Layout {
	return Layout{Data: data, Etc: DefaultEtc, Run: DefaultRun}
}

// LockFile is held for as long as a skiff process uses the data directory.
func (l Layout) LockFile() string { return filepath.Join(l.Data, "lock") }

// ClockFile is where the last known time is kept.
func (l Layout) ClockFile() string { return filepath.Join(l.Data, "clock") }

// Bin is where the helper executables of the payload are staged.
func (l Layout) Bin() string { return filepath.Join(l.Data, "bin") }

// StatusSocket answers `skiff status`.
func (l Layout) StatusSocket() string { return filepath.Join(l.Run, "skiff.sock") }

// HostChanges is where is written down what skiff has changed on this machine;
// see pkg/hostchange. It lies beside the configuration, since the installer
// writes to it before there is a data directory.
func (l Layout) HostChanges() string { return filepath.Join(l.Etc, "host-changes") }

// HostChangesOfBoot has those changes that a reboot undoes.
func (l Layout) HostChangesOfBoot() string { return filepath.Join(l.Run, "host-changes") }

// ConfigFile is the default configuration file; drop-ins live in ConfigFile+".d".
func (l Layout) ConfigFile() string { return filepath.Join(l.Etc, "config.yaml") }

// RegistriesFile is the default registry configuration.
func (l Layout) RegistriesFile() string { return filepath.Join(l.Etc, "registries.yaml") }

// AdminKubeconfig is the kubeconfig written for the person at the machine.
func (l Layout) AdminKubeconfig() string { return filepath.Join(l.Etc, "skiff.yaml") }

// ReleaseKey is the public key that releases must be signed with.
func (l Layout) ReleaseKey() string { return filepath.Join(l.Etc, "release.pub") }

// ReleaseURL says where releases come from: one line, which is an address or a
// directory.
func (l Layout) ReleaseURL() string { return filepath.Join(l.Etc, "release.url") }

// Upgrade holds what is kept for the way back from an upgrade. The service looks
// for the guard in that of DefaultData, wherever the rest of the data is.
func (l Layout) Upgrade() string { return filepath.Join(l.Data, "upgrade") }

// Server is the root of the control plane's state.
func (l Layout) Server() string { return filepath.Join(l.Data, "server") }

// ServerTLS holds the certificate tree of the control plane.
func (l Layout) ServerTLS() string { return filepath.Join(l.Server(), "tls") }

// ServerCred holds the kubeconfigs of the control plane's own clients.
func (l Layout) ServerCred() string { return filepath.Join(l.Server(), "cred") }

// ServerDB is the directory of the SQLite datastore.
func (l Layout) ServerDB() string { return filepath.Join(l.Server(), "db") }

// DatastoreSocket is where the datastore speaks etcd's gRPC protocol.
func (l Layout) DatastoreSocket() string { return filepath.Join(l.Run, "datastore.sock") }

// EventsSocket is where the store of the cluster's events does.
func (l Layout) EventsSocket() string { return filepath.Join(l.Run, "events.sock") }

// NetworkPolicySocket is where the CNI plug-in asks whether a new pod may have
// its addresses.
func (l Layout) NetworkPolicySocket() string { return filepath.Join(l.Run, "network-policy.sock") }

// NetworkPolicyClaims says which pods have been given which addresses.
func (l Layout) NetworkPolicyClaims() string { return filepath.Join(l.Run, "network-policy.json") }

// ServerEventsDB is the SQLite file of the cluster's events.
func (l Layout) ServerEventsDB() string { return filepath.Join(l.ServerDB(), "events.db") }

// Snapshots is where snapshots of the server are kept, unless the user wants
// them elsewhere.
func (l Layout) Snapshots() string { return filepath.Join(l.Server(), "snapshots") }

// ServerVersion holds the version of the skiff that used the data last.
func (l Layout) ServerVersion() string { return filepath.Join(l.Server(), "version") }

// ServerRestored is where a server's state is put together before it takes the
// place of the present one.
func (l Layout) ServerRestored() string { return l.Server() + ".restored" }

// ServerBeforeRestore is where the state that a restore replaces goes; label
// tells one from the other.
func (l Layout) ServerBeforeRestore(label string) string {
	return l.Server() + ".before-restore-" + label
}

// Manifests is the directory whose files are applied to the cluster.
func (l Layout) Manifests() string { return filepath.Join(l.Server(), "manifests") }

// Static is the directory whose files the server's port serves below /static/,
// and where Helm charts are looked for.
func (l Layout) Static() string { return filepath.Join(l.Server(), "static") }

// Token is the join token of the server.
func (l Layout) Token() string { return filepath.Join(l.Server(), "token") }

// AgentToken is the join token that is for agents only, and NodeToken the same
// under the name that K3s' users look for.
func (l Layout) AgentToken() string { return filepath.Join(l.Server(), "agent-token") }

// NodeToken is AgentToken by another name.
func (l Layout) NodeToken() string { return filepath.Join(l.Server(), "node-token") }

// NodePassword is by what a machine proves that a node name is its own. It lies
// beside the configuration, so that it outlives the data directory.
func (l Layout) NodePassword() string { return filepath.Join(l.Etc, "node", "password") }

// NodeID is what --with-node-id adds to the node's name.
func (l Layout) NodeID() string { return filepath.Join(l.Etc, "node", "id") }

// Agent is the root of the node's state.
func (l Layout) Agent() string { return filepath.Join(l.Data, "agent") }

// AgentTLS holds the certificates and keys of the node.
func (l Layout) AgentTLS() string { return filepath.Join(l.Agent(), "tls") }

// AgentCred holds the kubeconfigs of the node's components.
func (l Layout) AgentCred() string { return filepath.Join(l.Agent(), "cred") }

// Offline holds what a node needs to start without a server.
func (l Layout) Offline() string { return filepath.Join(l.Agent(), "offline") }

// AgentEtc holds the configuration files skiff generates for the node's components.
func (l Layout) AgentEtc() string { return filepath.Join(l.Agent(), "etc") }

// Servers remembers the servers of the cluster between starts of an agent.
func (l Layout) Servers() string { return filepath.Join(l.AgentEtc(), "servers.json") }

// Storage is where volumes of StorageClass local-path are made, unless the user
// wants them elsewhere.
func (l Layout) Storage() string { return filepath.Join(l.Data, "storage") }

// Images is the directory whose image archives are imported.
func (l Layout) Images() string { return filepath.Join(l.Agent(), "images") }

// Containerd is containerd's persistent root.
func (l Layout) Containerd() string { return filepath.Join(l.Agent(), "containerd") }

// ContainerdRun is containerd's state directory: shims' sockets and bundles
// live here, so it must be the same for every skiff that adopts them.
func (l Layout) ContainerdRun() string { return filepath.Join(l.Run, "containerd") }

// Shims is where containerd's shims listen: a short path, and not one that
// another containerd on this machine uses, too. Runc is where runc keeps what it
// must know of containers.
func (l Layout) Shims() string { return filepath.Join(l.Run, "shims") }

// Runc is described above.
func (l Layout) Runc() string { return filepath.Join(l.Run, "runc") }

// ContainerdSocket is where containerd serves its own API and the CRI.
func (l Layout) ContainerdSocket() string { return filepath.Join(l.ContainerdRun(), "containerd.sock") }

// ContainerdConfig is containerd's generated configuration.
func (l Layout) ContainerdConfig() string {
	return filepath.Join(l.AgentEtc(), "containerd", "config.toml")
}

// Certs holds containerd's per-registry hosts.toml files.
func (l Layout) Certs() string { return filepath.Join(l.AgentEtc(), "containerd", "certs.d") }

// CNIConf holds the generated CNI configuration list.
func (l Layout) CNIConf() string { return filepath.Join(l.AgentEtc(), "cni", "net.d") }

// CNIState is where the CNI plug-ins keep their allocations.
func (l Layout) CNIState() string { return filepath.Join(l.Run, "cni") }

// PodAddresses is where the CNI plug-ins remember which address a pod had.
func (l Layout) PodAddresses() string { return filepath.Join(l.Agent(), "addresses") }

// Kubelet is the kubelet's root directory. It is upstream's default on
// purpose: CSI drivers and other add-ons mount it by this name.
func (l Layout) Kubelet() string { return "/var/lib/kubelet" }

// KubeletConfDir holds optional drop-ins of the kubelet's configuration.
func (l Layout) KubeletConfDir() string { return filepath.Join(l.AgentEtc(), "kubelet.conf.d") }

// VolumePlugins is where FlexVolume drivers are looked for, by the kubelet and
// the controllers alike.
func (l Layout) VolumePlugins() string { return filepath.Join(l.Agent(), "volumeplugins") }

// PodLogs is where container logs are kept; upstream's default, log collectors rely on it.
func (l Layout) PodLogs() string { return "/var/log/pods" }
