package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/internal/backoff"
	"skiff/internal/pause"
	"skiff/pkg/address"
	"skiff/pkg/component"
	"skiff/pkg/config"
)

// annotationInternalIP is where the node-controller of a server looks for a
// node's addresses (pkg/server/cloud).
const annotationInternalIP = "skiff.dev/internal-ip"

// fixedIP are the addresses that the kubelet is told and that never change.
func fixedIP(cfg config.Completed) []netip.Addr {
	if cfg.ChosenIP {
		return nil
	}
	return cfg.Node.IP
}

// announcer writes the node's addresses to its Node object, whenever they are
// others than those there. The kubelet cannot: it reads its addresses once, at
// its start.
type announcer struct {
	book   *address.Book
	node   *nodeWatch
	logger *slog.Logger

	mu   sync.Mutex
	last error // guarded by mu: why the addresses could not be written
}

var (
	_ component.Component = (*announcer)(nil)
	_ component.Readier   = (*announcer)(nil)
)

// Name implements component.Component.
func (a *announcer) Name() string { return "node-address" }

// Ready implements component.Readier.
func (a *announcer) Ready(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// Run implements component.Component.
func (a *announcer) Run(ctx context.Context) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	pauses := backoff.Sequence{Min: 200 * time.Millisecond, Max: 30 * time.Second}
	for {
		moved := a.book.Changed()
		node, changed := a.node.get()
		err := a.write(ctx, client, node)
		if ctx.Err() != nil {
			return nil
		}
		a.mu.Lock()
		a.last = err
		a.mu.Unlock()
		if err != nil {
			a.logger.Debug("the node's addresses are not written yet", "error", err)
			if !pause.For(ctx, pauses.Next()) {
				return nil
			}
			continue
		}
		pauses.Reset()
		select {
		case <-ctx.Done():
			return nil
		case <-moved:
		case <-changed:
		}
	}
}

// client acts as the kubelet, which may change its own Node and no other.
func (a *announcer) client() (kubernetes.Interface, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", a.node.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("make client to announce addresses: %w", err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make client to announce addresses: %w", err)
	}
	return client, nil
}

// write patches the annotation if it is another.
func (a *announcer) write(ctx context.Context, client kubernetes.Interface, n *corev1.Node) error {
	if n == nil {
		return nil // It will be there when the kubelet has registered.
	}
	var list []string
	for _, ip := range a.book.Node() {
		list = append(list, ip.String())
	}
	text := strings.Join(list, ",")
	if n.Annotations[annotationInternalIP] == text {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{annotationInternalIP: text}}})
	if err != nil {
		return fmt.Errorf("announce addresses: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("no answer within 10 s"))
	defer cancel()
	if _, err := client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("announce addresses %s: %w", text, err)
	}
	a.logger.Info("the node's addresses are announced", "addresses", text)
	return nil
}
