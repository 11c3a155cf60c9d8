// Package join is how a node gets its identity: what node and server say to
// each other (wire.go), the server's answer (Server), the node's question and
// what it keeps of the answer (Client, Bundle), and keeping that fresh
// (Member). Who may join is in admit.go. A node in the server's own process
// joins the same way over InProcess. It knows nothing of the API server, where
// passwords and bootstrap tokens are kept by the packages below it. Start
// reading at Request.
package join

import (
	"net/http"
	"net/netip"
	"reflect"

	"skiff/pkg/token"
)

// Version of the wire format. A server answers the version it is asked in and
// refuses what it does not know.
const Version = 1

// The supervisor's paths. Path is below Prefix.
const (
	Prefix      = "/v1-skiff/"
	Path        = "/v1-skiff/node"
	TokenPath   = "/v1-skiff/token"
	CACertsPath = "/cacerts"
)

// ExternalIPAnnotation is what a node writes --node-external-ip into on its Node
// object, addresses with commas between, and the server reads.
const ExternalIPAnnotation = "skiff.dev/external-ip"

// Limits of a message, in bytes.
const (
	MaxRequest  = 64 << 10
	maxResponse = 1 << 20
)

// NodeInfo is what a node says of itself.
type NodeInfo struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Password proves that this is the machine that took the name first.
	Password token.Secret `json:"password,omitempty"`
	// Machine tells the hardware, where it has a name for itself: a re-installed
	// machine has lost its password, and this is the same still.
	Machine string `json:"machine,omitempty"`
	Version string `json:"version,omitempty"` // of skiff
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
	// EgressMode says what servers want to reach through the node's tunnel.
	EgressMode string `json:"egressMode,omitempty"`
	// Servers are host:port of every server, to be tried in order.
	Servers []string `json:"servers,omitempty"`
}

// Same reports whether a node of one cluster would do nothing differently in
// the other: whether all but the servers' addresses is equal.
func (c Cluster) Same(o Cluster) bool {
	c.Servers, o.Servers = nil, nil
	return reflect.DeepEqual(c, o)
}

// Refusal is the body of every answer that is not 200.
type Refusal struct {
	Code    Code   `json:"code,omitempty"`
	Message string `json:"message"`
}

// Code says why a server refuses, for programs.
type Code string

// The codes.
const (
	CodeRequest   Code = "request"         // the request is malformed
	CodeMethod    Code = "method"          // another HTTP method is wanted
	CodeTooLarge  Code = "too-large"       // the body is
	CodeVersion   Code = "version"         // of skiff or the protocol: they do not go together
	CodeToken     Code = "token"           // none, or a wrong one
	CodeBootstrap Code = "bootstrap-token" // unknown, expired, or not for joining
	CodeUnknown   Code = "unknown-node"    // an expired certificate, of a node the cluster has forgotten
	CodeName      Code = "name-taken"      // another machine has the node's name
	CodeAddress   Code = "address"         // is not the node's
	CodeForbidden Code = "forbidden"       // the caller is known, and may not do this
	CodeStarting  Code = "starting"        // come back in a few seconds
	CodeBusy      Code = "busy"            // too many requests
	CodeInternal  Code = "internal"        // see the server's log
)

// Status is the HTTP status that goes with the code.
func (c Code) Status() int {
	switch c {
	case CodeRequest, CodeVersion:
		return http.StatusBadRequest
	case CodeMethod:
		return http.StatusMethodNotAllowed
	case CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case CodeToken, CodeBootstrap, CodeUnknown:
		return http.StatusUnauthorized
	case CodeName, CodeAddress, CodeForbidden:
		return http.StatusForbidden
	case CodeStarting:
		return http.StatusServiceUnavailable
	case CodeBusy:
		return http.StatusTooManyRequests
	default:
		return http.StatusInternalServerError
	}
}
