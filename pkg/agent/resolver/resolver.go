// Package resolver keeps the file that the kubelet makes pods' resolv.conf
// from: the host's own, less the servers that a pod cannot reach. It follows
// the host, which often gets its name servers after skiff has started, and
// never adds a server that nobody configured. It knows nothing of cluster DNS.
// Start reading at Keeper.
package resolver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"skiff/internal/atomicfile"
	"skiff/internal/filewatch"
	"skiff/internal/resolvconf"
	"skiff/pkg/component"
)

// Notes is where the reader of `skiff status` is told what is wrong.
type Notes interface {
	Set(key, message string)
	Clear(key string)
}

// noteKey is the key of the one note.
const noteKey = "resolv-conf"

// Keeper is the component. Its fields must not change once Run has been called.
type Keeper struct {
	// Sources are files as in resolv.conf(5). The first that names a server
	// that pods can reach counts.
	Sources []string
	Out     string // the file to keep
	Notes   Notes
	Logger  *slog.Logger

	written atomic.Bool
}

var (
	_ component.Component = (*Keeper)(nil)
	_ component.Readier   = (*Keeper)(nil)
)

// Name implements component.Component.
func (k *Keeper) Name() string { return "resolver" }

// Run implements component.Component.
func (k *Keeper) Run(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(k.Out), 0o755); err != nil {
		return fmt.Errorf("write pods' resolver configuration: %w", err)
	}
	if err := k.update(); err != nil {
		return err
	}
	k.written.Store(true)
	filewatch.Run(ctx, k.Sources, k.Logger, func() {
		if err := k.update(); err != nil {
			k.Logger.Error("pods' resolver configuration not renewed", "error", err)
		}
	})
	return nil
}

// Ready implements component.Readier.
func (k *Keeper) Ready(context.Context) error {
	if !k.written.Load() {
		return fmt.Errorf("%s has not been written", k.Out)
	}
	return nil
}

// update writes Out if it is not what the sources say now.
func (k *Keeper) update() error {
	text, problem := k.choose()
	if problem == "" {
		k.Notes.Clear(noteKey)
	} else {
		k.Notes.Set(noteKey, problem)
	}
	if old, err := os.ReadFile(k.Out); err == nil && string(old) == text {
		return nil
	}
	if problem != "" {
		k.Logger.Warn("pods get no outside name server", "reason", problem)
	} else {
		k.Logger.Info("pods' resolver configuration written", "file", k.Out)
	}
	if err := atomicfile.Write(k.Out, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write pods' resolver configuration: %w", err)
	}
	return nil
}

// choose returns the text for pods, and what is wrong with the sources.
func (k *Keeper) choose() (text, problem string) {
	const advice = "name a file with other servers by --resolv-conf"
	var search string // what the first source says besides servers
	for i, file := range k.Sources {
		data, err := os.ReadFile(file)
		if err != nil {
			if i == 0 && errors.Is(err, fs.ErrNotExist) {
				problem = fmt.Sprintf("there is no %s: pods and the cluster's DNS resolve cluster names only; make it, or %s", file, advice)
			} else if i == 0 {
				problem = fmt.Sprintf("the host's name servers are not known (%v); %s", err, advice)
			}
			continue
		}
		text, servers, local := resolvconf.ForPods(string(data))
		if len(servers) > 0 {
			return text, ""
		}
		if i > 0 {
			continue
		}
		search = text
		problem = fmt.Sprintf("%s names no name server: pods and the cluster's DNS resolve cluster names only; add one, or %s", file, advice)
		if len(local) > 0 {
			problem = fmt.Sprintf("%s names only %s, which a pod cannot reach: pods with dnsPolicy Default resolve no outside names, others ask it through the cluster's DNS; %s",
				file, strings.Join(local, " and "), advice)
		}
	}
	return search, problem
}
