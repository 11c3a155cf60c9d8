package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"skiff/internal/lockfile"
	"skiff/pkg/config"
	"skiff/pkg/doctor"
	"skiff/pkg/hostchange"
	"skiff/pkg/join"
	"skiff/pkg/paths"
	"skiff/pkg/payload"
	"skiff/pkg/pki"
	"skiff/pkg/preflight"
	"skiff/pkg/version"
)

// machine is the skiff that runs here, or would.
type machine struct {
	cfg config.Completed
	pid int // 0 if it does not run
	// lifetime of certificates, as the cluster has it.
	lifetime time.Duration
}

// readMachine finds out with which settings skiff runs here, or would. What is
// wrong with them is a finding, and the defaults take their place.
func readMachine(c *cli.Context) (machine, []doctor.Finding) {
	var m machine
	in := config.Input{Flags: flagValues(c, config.RoleServer), Environ: os.Environ()}
	layout := paths.New(paths.DefaultData)
	if cfg, _, err := config.Load(config.RoleServer, in); err == nil {
		layout = paths.New(cfg.DataDir)
	} else if c.IsSet("data-dir") {
		layout = paths.New(c.String("data-dir"))
	}
	role := config.RoleServer
	if _, err := os.Stat(layout.ServerTLS()); err != nil {
		if _, err := os.Stat(layout.AgentTLS()); err == nil {
			role = config.RoleAgent
		}
	}
	// A lock that cannot be read is root's: then it is taken for stopped.
	m.pid, _ = lockfile.Holder(layout.LockFile())
	how, known := installed()
	if m.pid != 0 {
		how, known = commandOf(m.pid)
	}
	if known {
		role, in.Environ = how.role, append(how.environ, in.Environ...)
		for name, values := range how.flags {
			if _, given := in.Flags[name]; !given {
				in.Flags[name] = values
			}
		}
	} else if joins(in) {
		role = config.RoleAgent
	}
	cfg, err := loadFor(role, in)
	if err == nil {
		m.cfg = cfg
		return m.withCluster(), registriesFindings(cfg)
	}
	findings := configFindings(err, doctor.ConfigFile, "mend it: a start would refuse it; docs/reference/flags.md lists all keys, skiff config --show-origin what is in force")
	in.Environ, in.DefaultFile = nil, filepath.Join(layout.Etc, "none")
	delete(in.Flags, config.ConfigFlag)
	if m.cfg, err = loadFor(role, in); err != nil {
		in.Flags = map[string][]string{"data-dir": {layout.Data}}
		m.cfg, _ = loadFor(role, in) // The defaults are good.
	}
	return m.withCluster(), findings
}

// joins reports whether the settings are those of an agent that has not run yet.
func joins(in config.Input) bool {
	cfg, _, err := config.Load(config.RoleAgent, in)
	return err == nil && cfg.Agent.Server != ""
}

// loadFor reads and completes the configuration, without making anything.
func loadFor(role config.Role, in config.Input) (config.Completed, error) {
	cfg, _, err := config.Load(role, in)
	if err != nil {
		return config.Completed{}, err
	}
	facts, err := gatherFacts()
	if err != nil {
		return config.Completed{}, err
	}
	facts.NodeID = func() (string, error) { return "00000000", nil } // asking would make one
	return cfg.Complete(role, facts)
}

// withCluster adds what an agent has learned from its server.
func (m machine) withCluster() machine {
	m.lifetime = m.cfg.Server.LeafLifetime
	if m.cfg.Role != config.RoleAgent {
		return m
	}
	c, lifetime, err := join.StoredCluster(m.cfg.Paths.AgentCred())
	if err != nil { // It has not joined, or this is not root.
		c = join.Cluster{
			PodCIDR: config.Default().Cluster.PodCIDR, ServiceCIDR: config.Default().Cluster.ServiceCIDR, FlannelBackend: config.Default().Cluster.FlannelBackend,
		}
	}
	if lifetime > 0 {
		m.lifetime = lifetime
	}
	shared := config.Cluster{
		PodCIDR: c.PodCIDR, ServiceCIDR: c.ServiceCIDR, DNS: c.DNS, Domain: c.Domain, FlannelBackend: c.FlannelBackend,
		EgressSelectorMode: config.Default().Cluster.EgressSelectorMode,
	}
	if shared.Domain == "" {
		shared.Domain = config.Default().Cluster.Domain
	}
	if cfg, err := m.cfg.InCluster(shared, c.Disable); err == nil {
		m.cfg = cfg
	}
	return m
}

// options is what the doctor must know.
func (m machine) options() doctor.Options {
	cfg := m.cfg
	node := cfg.Role == config.RoleAgent || !cfg.Server.DisableAgent
	built := pki.BuildFloor()
	if stamped, err := time.Parse(time.RFC3339, version.BuildDate); err == nil && stamped.After(built) {
		built = stamped
	}
	resolvers := []string{paths.ResolvConf, paths.SystemdResolvConf}
	if cfg.Node.ResolvConf != "" {
		resolvers = []string{cfg.Node.ResolvConf}
	}
	return doctor.Options{
		Paths: cfg.Paths, Server: cfg.Role == config.RoleServer, Node: node, Ingress: !cfg.Disabled("ingress"), PID: m.pid,
		Overlayfs: cfg.Node.Snapshotter == "overlayfs", BuildTime: built, Backend: cfg.Cluster.FlannelBackend,
		PodCIDR: cfg.Cluster.PodCIDR, ServiceCIDR: cfg.Cluster.ServiceCIDR, ClusterDNS: cfg.Cluster.DNS,
		ResolvConf: resolvers, Ports: ports(cfg, node), APIPort: cfg.Server.Port, LeafLifetime: m.lifetime,
		Record: func(change hostchange.Change) error {
			rec, err := hostchange.Open(cfg.Paths)
			if err != nil {
				return err
			}
			return rec.Record(hostchange.Change{Kind: hostchange.Dir, Value: cfg.Paths.Etc}, change)
		},
		NFT: func() (string, func() error, error) { return nftExecutable(cfg) },
	}
}

// stageOnce takes an executable out of the payload into a directory of its own
// on the disk of the data directory: others are often mounted noexec.
func stageOnce(cfg config.Completed, name string) (path string, remove func() error, err error) {
	p, err := payload.Open()
	if err != nil {
		return "", nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	parent, err := preflight.ExistingParent(cfg.Paths.Bin())
	if err != nil {
		return "", nil, fmt.Errorf("unpack %s for a moment: %w", name, err)
	}
	dir, err := os.MkdirTemp(parent, ".skiff-doctor-*")
	if err != nil {
		return "", nil, fmt.Errorf("unpack %s for a moment: %w", name, err)
	}
	remove = func() error { return os.RemoveAll(dir) }
	if err := p.Stage(dir, name); err != nil {
		return "", nil, errors.Join(err, remove())
	}
	return filepath.Join(dir, name), remove, nil
}
