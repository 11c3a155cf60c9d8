package upgrade

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
)

// Release is what there is to know about a version of skiff.
type Release struct {
	Version    string `json:"version"`
	Kubernetes string `json:"kubernetes"`
	// Schema is the form of its datastore; see release.Manifest.
	Schema int `json:"schema"`
}

// Neighbours are the other parts of the cluster that a version must suit.
type Neighbours struct {
	// Agent is true if this machine has no control plane.
	Agent bool
	// Server is the Kubernetes version of the cluster's server, for an agent; ""
	// if it could not be asked.
	Server string
	// Oldest is the oldest Kubernetes version of a node, for a server; "" if there
	// is none.
	Oldest string
}

// Rules for the versions of Kubernetes in one cluster.
const (
	kubeletsBehind = 3 // minor versions that a node may be older than its server
	stepUp         = 1 // minor versions that a server may go up at a time
)

// Suits says why an upgrade from one version to another is a bad idea; nil if
// it is none.
func Suits(from, to Release, n Neighbours, allowDowngrade bool) error {
	kf, err := parse(from.Kubernetes)
	if err != nil {
		return err
	}
	kt, err := parse(to.Kubernetes)
	if err != nil {
		return err
	}
	switch {
	case kt.major != kf.major:
		return fmt.Errorf("%s has Kubernetes %s and %s has %s: there is no way between the two", to.Version, to.Kubernetes, from.Version, from.Kubernetes)
	case kt.minor < kf.minor || to.Schema < from.Schema:
		return fmt.Errorf("%s is older than %s in a way that does not go back: it cannot read what %s has written; "+
			"the way back is `skiff upgrade rollback --restore-data`, or `skiff snapshot restore` with a snapshot from before the upgrade (skiff snapshot ls) once the older skiff is in place",
			to.Version, from.Version, from.Version)
	case kt.minor > kf.minor+stepUp:
		return fmt.Errorf("%s has Kubernetes %s, and a step up from %s may be of one minor version: upgrade to a version with Kubernetes v%d.%d first",
			to.Version, to.Kubernetes, from.Kubernetes, kf.major, kf.minor+stepUp)
	}
	if err := n.suit(to, kt, kt.minor > kf.minor); err != nil {
		return err
	}
	if older(to, from, kt, kf) && !allowDowngrade {
		return fmt.Errorf("%s is older than %s, which runs here; --allow-downgrade does it all the same, since both have Kubernetes v%d.%d; "+
			"to undo the last upgrade there is `skiff upgrade rollback`", to.Version, from.Version, kt.major, kt.minor)
	}
	return nil
}

// suit compares with the rest of the cluster.
func (n Neighbours) suit(to Release, kt version, up bool) error {
	if !n.Agent {
		oldest, err := parse(n.Oldest)
		if err == nil && kt.minor > oldest.minor+kubeletsBehind {
			return fmt.Errorf("%s has Kubernetes %s, and a node of this cluster has %s: nodes may be %d minor versions older at most; upgrade the nodes first",
				to.Version, to.Kubernetes, n.Oldest, kubeletsBehind)
		}
		return nil
	}
	server, err := parse(n.Server)
	switch {
	case err != nil && up:
		return fmt.Errorf("%s has Kubernetes %s, and no server can be asked which version it has: a node must not be newer than its server; upgrade the server, and this node when it reaches the server",
			to.Version, to.Kubernetes)
	case err == nil && kt.minor > server.minor:
		return fmt.Errorf("%s has Kubernetes %s, and the server of this cluster has %s: a node must not be newer than its server; upgrade the server first",
			to.Version, to.Kubernetes, n.Server)
	}
	return nil
}

// older compares Kubernetes first, since a version of skiff may be anything.
func older(to, from Release, kt, kf version) bool {
	if c := kt.compare(kf); c != 0 {
		return c < 0
	}
	vt, errTo := parse(to.Version)
	vf, errFrom := parse(from.Version)
	return errTo == nil && errFrom == nil && vt.compare(vf) < 0
}

// version is that of Kubernetes with ours behind it: v1.36.3+skiff2-14-gabc
// has 14 commits since the second skiff on Kubernetes 1.36.3.
type version struct {
	major, minor, patch int
	pre                 string
	skiff, commits      int
}

func parse(s string) (version, error) {
	m := regexp.MustCompile(`^v(\d{1,6})\.(\d{1,6})\.(\d{1,6})(-[0-9A-Za-z.-]+)?(?:\+skiff(\d{1,6})(?:-(\d{1,6})-g[0-9a-f]+)?)?$`).FindStringSubmatch(s)
	if m == nil {
		return version{}, fmt.Errorf("%q is no version; want one like v1.36.3+skiff1", s)
	}
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0 // left out
		}
		return n
	}
	return version{number(m[1]), number(m[2]), number(m[3]), m[4], number(m[5]), number(m[6])}, nil
}

func (v version) compare(w version) int {
	final := func(pre string) int { // one that is no preview is newer
		if pre == "" {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(v.major, w.major), cmp.Compare(v.minor, w.minor), cmp.Compare(v.patch, w.patch),
		cmp.Compare(final(v.pre), final(w.pre)), cmp.Compare(v.pre, w.pre),
		cmp.Compare(v.skiff, w.skiff), cmp.Compare(v.commits, w.commits),
	)
}

// Oldest is the oldest of some versions, "" if there is none that can be read.
func Oldest(versions []string) (oldest string) {
	var least version
	for _, text := range versions {
		v, err := parse(text)
		if err == nil && (oldest == "" || v.compare(least) < 0) {
			oldest, least = text, v
		}
	}
	return oldest
}
