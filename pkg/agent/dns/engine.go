package dns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coredns/caddy"

	"skiff/internal/atomicfile"
)

// noteKey is the key of our line in `skiff status`.
const noteKey = "cluster-dns"

// engine owns the CoreDNS instance. It is used by one goroutine.
type engine struct {
	o      Options
	listen []netip.AddrPort
	report reporter

	instance *caddy.Instance
	running  string // the adapted Corefile that runs
}

// apply makes the name server follow the inputs. A Corefile that does not work
// leaves the one that runs in place; at start the default takes its place, and
// only when that fails too it is an error.
func (e *engine) apply(ctx context.Context, in input, resolvers []string) error {
	redirectLog(e.o.Logger)
	register()
	if err := e.writeFiles(in); err != nil {
		return err
	}
	text := in.Corefile
	if strings.TrimSpace(text) == "" {
		text = defaultCorefile(e.o.ClusterDomain)
	}
	err := e.try(text, resolvers)
	if err == nil {
		e.report.ok()
		return nil
	}
	if e.instance == nil {
		fallback := e.withoutCustom(resolvers)
		if fallback != nil {
			return fmt.Errorf("start cluster DNS: %w", errors.Join(err, fallback))
		}
	}
	e.report.broken(ctx, in, err)
	return nil
}

// withoutCustom starts with what cannot be anybody's mistake.
func (e *engine) withoutCustom(resolvers []string) error {
	text := defaultCorefile(e.o.ClusterDomain)
	var kept []string
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "import ") {
			kept = append(kept, line)
		}
	}
	return e.try(strings.Join(kept, ""), resolvers)
}

// try starts or restarts CoreDNS with the Corefile text. Sockets are handed
// over, so no query is lost.
func (e *engine) try(text string, resolvers []string) error {
	adapted, err := adapt(text, adaptation{
		Listen: e.listen, Dir: e.o.Dir, Kubeconfig: e.o.Kubeconfig, Resolvers: resolvers, Allow: e.o.Allow,
	})
	if err != nil {
		return err
	}
	if adapted == e.running {
		return nil
	}
	in := caddy.CaddyfileInput{Filepath: "Corefile", Contents: []byte(adapted), ServerTypeName: "dns"}
	if err := caddy.ValidateAndExecuteDirectives(in, nil, true); err != nil {
		return fmt.Errorf("check Corefile: %w", err)
	}
	if e.instance == nil {
		e.instance, err = caddy.Start(in)
		if err != nil {
			e.instance = nil
			return fmt.Errorf("start CoreDNS: %w", err)
		}
		e.running = adapted
		return nil
	}
	next, err := e.instance.Restart(in)
	if next != nil {
		e.instance = next
	}
	if err != nil {
		return fmt.Errorf("restart CoreDNS: %w", err)
	}
	if next == nil { // caddy turns a panic of a plug-in into no result at all.
		return errors.New("restart CoreDNS: a plug-in panicked; the log has the details")
	}
	e.running = adapted
	e.o.Logger.Info("cluster DNS has a new configuration", "resolvers", strings.Join(resolvers, " "))
	return nil
}

// stop ends the instance and its watches.
func (e *engine) stop() {
	if e.instance == nil {
		return
	}
	for _, err := range e.instance.ShutdownCallbacks() {
		e.o.Logger.Debug("stop a plug-in of CoreDNS", "error", err)
	}
	if err := e.instance.Stop(); err != nil {
		e.o.Logger.Debug("stop CoreDNS", "error", err)
	}
	e.instance.Wait()
	e.instance = nil
}

// writeFiles puts the files of the ConfigMaps where the adapted Corefile looks
// for them. A change of a file alone makes CoreDNS restart too, except NodeHosts,
// which the hosts plug-in reads again by itself.
func (e *engine) writeFiles(in input) error {
	custom := filepath.Join(e.o.Dir, "custom")
	if err := os.MkdirAll(custom, 0o755); err != nil {
		return fmt.Errorf("make directory for cluster DNS: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(e.o.Dir, keyNodeHosts), []byte(in.NodeHosts), 0o644); err != nil {
		return fmt.Errorf("write node names for cluster DNS: %w", err)
	}
	old, err := os.ReadDir(custom)
	if err != nil {
		return fmt.Errorf("read directory of cluster DNS: %w", err)
	}
	for _, f := range old {
		if _, ok := in.Custom[f.Name()]; !ok {
			if err := os.RemoveAll(filepath.Join(custom, f.Name())); err != nil {
				return fmt.Errorf("remove old file of cluster DNS: %w", err)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(in.Custom)) {
		if err := atomicfile.Write(filepath.Join(custom, name), []byte(in.Custom[name]), 0o644); err != nil {
			return fmt.Errorf("write file for cluster DNS: %w", err)
		}
	}
	return nil
}
