package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"skiff/pkg/config"
	"skiff/pkg/hostchange"
	"skiff/pkg/paths"
)

// planChanges looks at what will be on this machine outside of the data
// directory, and that itself: all that is known from the configuration. It is
// written down at once, so that a first start waits for the disk once; later
// starts write nothing.
func planChanges(cfg config.Completed, node bool) (*hostchange.Recorder, []hostchange.Change, error) {
	rec, err := hostchange.Open(cfg.Paths)
	if err != nil {
		return nil, nil, err
	}
	l := &changeList{}
	// A skiff that had no time to write anything down, or did not do so yet, has
	// left its lock there.
	_, err = os.Lstat(cfg.Paths.LockFile())
	l.ours = err == nil && !rec.Knows(hostchange.Data, cfg.DataDir)
	// These are skiff's by their names, whoever made them.
	l.add(hostchange.Change{Kind: hostchange.Dir, Value: cfg.Paths.Etc})
	for _, file := range []string{cfg.Paths.NodePassword(), cfg.Paths.NodeID()} {
		l.add(hostchange.Change{Kind: hostchange.Dir, Value: filepath.Dir(file)})
		l.add(hostchange.Change{Kind: hostchange.File, Value: file})
	}
	l.tree(hostchange.Tree, cfg.Paths.Run)
	l.tree(hostchange.Data, cfg.DataDir)
	if cfg.Log.File != "" {
		l.file(cfg.Log.File)
	}
	if cfg.Role == config.RoleServer {
		l.file(cfg.Server.WriteKubeconfig)
	}
	if node {
		l.node(cfg)
	}
	return rec, l.changes, l.err
}

// changeList gathers changes.
type changeList struct {
	ours    bool // what is there is of an earlier skiff
	changes []hostchange.Change
	err     error
}

// node adds what the kubelet, containerd and the CNI library have outside.
func (l *changeList) node(cfg config.Completed) {
	l.tree(hostchange.Tree, cfg.Paths.Kubelet())
	l.tree(hostchange.Tree, cfg.Paths.PodLogs())
	l.tree(hostchange.Tree, paths.ContainerLogs)
	l.dir(paths.MountTable)
	l.dir(paths.CNICache)
	for _, network := range []string{"cbr0-*", "cni-loopback-*"} {
		l.add(hostchange.Change{Kind: hostchange.Files, Value: filepath.Join(paths.CNICache, network)})
	}
	if base := cfg.Node.StoragePath; !strings.HasPrefix(base, cfg.DataDir+"/") {
		l.dir(base)
		l.add(hostchange.Change{Kind: hostchange.Volumes, Value: filepath.Join(base, "pvc-*_*")})
	}
}

func (l *changeList) add(c hostchange.Change) {
	if l.ours {
		c.Before = ""
	}
	l.changes = append(l.changes, c)
}

// dir adds a directory, and first those it will be made in.
func (l *changeList) dir(path string) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
		return // It is somebody's.
	}
	l.dir(filepath.Dir(path))
	l.add(hostchange.Change{Kind: hostchange.Dir, Value: path})
}

func (l *changeList) file(path string) {
	l.dir(filepath.Dir(path))
	l.add(hostchange.NewFile(path))
}

func (l *changeList) tree(kind hostchange.Kind, path string) {
	l.dir(filepath.Dir(path))
	c, err := hostchange.NewTree(kind, path)
	l.err = errors.Join(l.err, err)
	if kind == hostchange.Data {
		c.Before = beforeData(c.Before)
	}
	l.add(c)
}

// beforeData is how a data directory was before skiff without what a person, or
// the installer, has put there for it: images, manifests, a token.
func beforeData(before string) string {
	names := strings.FieldsFunc(before, func(c rune) bool { return c == '/' })
	names = slices.DeleteFunc(names, func(name string) bool {
		return name == "agent" || name == "server" || name == "storage"
	})
	if len(names) == 0 {
		return ""
	}
	return "/" + strings.Join(names, "/")
}
