// Package uplink keeps the node's connection to each server, over which the
// servers reach its kubelet and, where the cluster is set up so, its pods. What
// may be reached is decided here (rules.go), for the servers' word is not
// enough. It must not know how servers are found. Start reading at New.
package uplink

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"skiff/pkg/paths"
	"skiff/pkg/pki"
	"skiff/pkg/status"
	"skiff/pkg/tunnel"
)

// Modes that change what may be reached, values of --egress-selector-mode.
const (
	modePod      = "pod"
	modeCluster  = "cluster"
	modeDisabled = "disabled"
)

// Options is what New needs.
type Options struct {
	Layout   paths.Layout
	NodeName string
	// Mode is the cluster's --egress-selector-mode.
	Mode string
	// Servers returns all servers, as host:port, and a channel that is closed
	// when there may be others.
	Servers func() ([]string, <-chan struct{})
	// Kubelet returns where the node's kubelet serves, the zero value while it
	// does not.
	Kubelet func() netip.AddrPort
	// Allocated reports whether an address is that of a pod of this node; nil
	// where the network is the user's.
	Allocated func(netip.Addr) bool
	// Kubeconfig is of an identity that may list the node's pods.
	Kubeconfig string
	// Watched is tunnel.Client's; it may be nil.
	Watched func(server string, by bool)
	Notes   status.Notes
	Logger  *slog.Logger
}

// New returns the component, nil if the servers reach the node by themselves.
func New(o Options) *tunnel.Client {
	if o.Mode == modeDisabled {
		return nil
	}
	r := &rules{Options: o}
	return &tunnel.Client{Servers: o.Servers, TLS: o.identity, Allow: r.allow, Watched: o.Watched, Notes: o.Notes, Logger: o.Logger}
}

// identity reads the node's certificate and the servers' authority, which are
// renewed while skiff runs.
func (o Options) identity() (*tls.Config, error) {
	file := func(name string) string { return filepath.Join(o.Layout.AgentTLS(), name) }
	own, err := tls.LoadX509KeyPair(file(pki.ClientKubelet+".crt"), file(pki.ClientKubelet+".key"))
	if err != nil {
		return nil, fmt.Errorf("read the node's certificate: %w", err)
	}
	ca, err := os.ReadFile(file(pki.ServerCA + ".crt"))
	if err != nil {
		return nil, fmt.Errorf("read the servers' authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("read the servers' authority: no certificate in the file")
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{own}}, nil
}
