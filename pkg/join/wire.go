// Package join is how a node gets its identity: what node and server say to
// each other (wire.go), the server's answer (Server), the node's question and
// what it keeps of the answer (Client, Bundle), and keeping that fresh
// (Member). A node in the server's own process joins the same way over
// InProcess. It knows nothing of the API server. Start reading at Request.
package join

import (
	"net/netip"
	"slices"

	"skiff/pkg/token"
)

// Version of the wire format. A server answers the version it is asked in and
// refuses what it does not know.
const Version = 1

// The supervisor's paths. Path is below Prefix.
const (
	Prefix      = "/v1-skiff/"
	Path        = "/v1-skiff/node"
	CACertsPath = "/cacerts"
)

// ExternalIPAnnotation is what a node writes --node-external-ip into on its Node
// object, addresses with commas between, and the server reads.
const ExternalIPAnnotation = "skiff.dev/external-ip"

// Limits of a message, in bytes.
const (
	maxRequest  = 64 << 10
	maxResponse = 1 << 20
)

// NodeInfo is what a node says of itself.
type NodeInfo struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Password proves that this is the machine that took the name first. It
	// has a place here already and is not looked at yet.
	Password token.Secret `json:"password,omitempty"`
	Version  string       `json:"version,omitempty"` // of skiff
}

// Request asks for certificates and for the cluster's settings.
type Request struct {
	Version int      `json:"version"`
	Node    NodeInfo `json:"node"`
	// CSRs are PEM certificate requests by name of pki.NodeTree; those whose
	// certificates are still good are left out.
	CSRs map[string]string `json:"csrs,omitempty"`
}

// Response answers a Request.
type Response struct {
	Version      int               `json:"version"`
	Certificates map[string]string `json:"certificates,omitempty"` // PEM, by name
	ServerCA     string            `json:"serverCA"`
	ClientCA     string            `json:"clientCA"`
	Cluster      Cluster           `json:"cluster"`
	// Lifetime is what the server gives certificates, in seconds. A node asks
	// again for one that lives longer: it was issued by a wrong clock.
	Lifetime int64 `json:"lifetime"`
}

// Cluster is what all nodes of a cluster share.
type Cluster struct {
	PodCIDR        []netip.Prefix `json:"podCIDR"`
	ServiceCIDR    []netip.Prefix `json:"serviceCIDR"`
	DNS            []netip.Addr   `json:"dns"`
	Domain         string         `json:"domain"`
	FlannelBackend string         `json:"flannelBackend"`
	// As in pkg/config.
	FlannelExternalIP bool `json:"flannelExternalIP,omitempty"`
	FlannelIPv6Masq   bool `json:"flannelIPv6Masq,omitempty"`
	// Disable names the bundled parts that the cluster does without.
	Disable []string `json:"disable,omitempty"`
	// Servers are host:port of every server, to be tried in order.
	Servers []string `json:"servers,omitempty"`
}

// Same reports whether a node of one cluster would do nothing differently in
// the other: whether all but the servers' addresses is equal.
func (c Cluster) Same(o Cluster) bool {
	return slices.Equal(c.PodCIDR, o.PodCIDR) && slices.Equal(c.ServiceCIDR, o.ServiceCIDR) && slices.Equal(c.DNS, o.DNS) &&
		c.Domain == o.Domain && c.FlannelBackend == o.FlannelBackend &&
		c.FlannelExternalIP == o.FlannelExternalIP && c.FlannelIPv6Masq == o.FlannelIPv6Masq && slices.Equal(c.Disable, o.Disable)
}

// Refusal is the body of every answer that is not 200.
type Refusal struct {
	Message string `json:"message"`
}
