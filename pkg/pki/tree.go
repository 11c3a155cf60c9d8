// Package pki keeps the certificates of a cluster and of its nodes: which
// there are (Tree and NodeTree, plain tables), when they are issued anew
// (Store.Ensure) and how that happens while skiff runs (Renewer). It knows
// nothing about Kubernetes, HTTP or where the directory lies. Start reading at
// Tree; DESIGN.md explains the dates and what happens after a power cut.
package pki

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Use says what a certificate may be used for.
type Use int

// The uses of a Spec.
const (
	Authority  Use = iota + 1 // signs other certificates
	Client                    // proves who calls
	Serving                   // proves who answers
	SigningKey                // a key without a certificate
)

// String names the use as it appears in the printed tree.
func (u Use) String() string {
	switch u {
	case Authority:
		return "authority"
	case Client:
		return "client"
	case Serving:
		return "serving"
	case SigningKey:
		return "key"
	}
	return fmt.Sprintf("Use(%d)", int(u))
}

// Spec describes one certificate, or one bare key.
type Spec struct {
	// Name is the file name without extension: <name>.crt and <name>.key.
	Name string
	// Issuer is the Name of the Authority that signs it; empty for an
	// Authority, which signs itself, and for a SigningKey.
	Issuer string
	Use    Use
	// CN is the common name; "{node}" stands for the name of the node.
	CN  string
	Org []string
	// SAN gives the names and addresses of a Serving certificate.
	SAN func(Facts) SANs
	// Kubeconfig marks the identities that are written as a kubeconfig.
	Kubeconfig bool
}

// Subject returns the common name for the given facts.
func (s Spec) Subject(f Facts) string {
	return strings.ReplaceAll(s.CN, "{node}", f.NodeName)
}

func (s Spec) sans(f Facts) SANs {
	if s.SAN == nil {
		return SANs{}
	}
	return s.SAN(f)
}

// Facts is what is known only at run time and ends up in certificates.
type Facts struct {
	NodeName   string
	Hostname   string
	Addresses  []netip.Addr // of this node, also the advertised one
	ServiceIPs []netip.Addr // of the Service "kubernetes"
	Domain     string       // of the cluster, such as "cluster.local"
	Extra      []string     // names and addresses from --tls-san
}

// SANs are the names and addresses a Serving certificate is good for.
type SANs struct {
	DNS []string
	IP  []netip.Addr
}

// normal returns s sorted, lower case and without repetitions, so that two
// can be compared.
func (s SANs) normal() SANs {
	var n SANs
	for _, d := range s.DNS {
		if d != "" {
			n.DNS = append(n.DNS, strings.ToLower(d))
		}
	}
	for _, a := range s.IP {
		if a.IsValid() {
			n.IP = append(n.IP, a.Unmap().WithZone(""))
		}
	}
	slices.Sort(n.DNS)
	slices.SortFunc(n.IP, netip.Addr.Compare)
	n.DNS, n.IP = slices.Compact(n.DNS), slices.Compact(n.IP)
	return n
}

func (s SANs) equal(o SANs) bool {
	return slices.Equal(s.DNS, o.DNS) && slices.Equal(s.IP, o.IP)
}

// String lists names, then addresses.
func (s SANs) String() string {
	all := slices.Clone(s.DNS)
	for _, a := range s.IP {
		all = append(all, a.String())
	}
	return strings.Join(all, " ")
}

// Names of certificates that other packages ask for.
const (
	ServerCA        = "server-ca"
	ClientCA        = "client-ca"
	RequestHeaderCA = "request-header-ca"
	ServingAPI      = "serving-kube-apiserver"
	ClientAdmin     = "client-admin"
	ClientAPI       = "client-kube-apiserver"
	ClientAuthProxy = "client-auth-proxy"
	ServiceKey      = "service"

	ClientKubelet    = "client-kubelet"
	ServingKubelet   = "serving-kubelet"
	ClientKubeProxy  = "client-kube-proxy"
	ClientSkiffAgent = "client-skiff-agent"
)

// Organisations of client certificates.
const (
	NodesOrg  = "system:nodes"
	AgentsOrg = "skiff:agents"
	// MastersOrg is that of administrators.
	MastersOrg = "system:masters"
)

// Tree is what a server keeps. An issuer stands above what it issues.
var Tree = []Spec{
	{Name: ServerCA, Use: Authority, CN: "skiff-server-ca"},
	{Name: ServingAPI, Issuer: ServerCA, Use: Serving, CN: "kube-apiserver", SAN: apiSANs},

	{Name: ClientCA, Use: Authority, CN: "skiff-client-ca"},
	{Name: ClientAdmin, Issuer: ClientCA, Use: Client, CN: "system:admin", Org: []string{MastersOrg}, Kubeconfig: true},
	{Name: ClientAPI, Issuer: ClientCA, Use: Client, CN: "kube-apiserver-kubelet-client", Org: []string{MastersOrg}},

	{Name: RequestHeaderCA, Use: Authority, CN: "skiff-request-header-ca"},
	{Name: ClientAuthProxy, Issuer: RequestHeaderCA, Use: Client, CN: "system:auth-proxy"},

	{Name: ServiceKey, Use: SigningKey},
}

// NodeTree is what a node keeps. Its keys are made on the node and stay there;
// the certificates come from a server through package join.
var NodeTree = []Spec{
	{Name: ClientKubelet, Issuer: ClientCA, Use: Client, CN: "system:node:{node}", Org: []string{NodesOrg}},
	{Name: ServingKubelet, Issuer: ServerCA, Use: Serving, CN: "{node}", SAN: nodeSANs},
	{Name: ClientKubeProxy, Issuer: ClientCA, Use: Client, CN: "system:kube-proxy"},
	{Name: ClientSkiffAgent, Issuer: ClientCA, Use: Client, CN: "system:skiff-agent:{node}", Org: []string{AgentsOrg}},
}

func apiSANs(f Facts) SANs {
	s := SANs{
		DNS: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", f.NodeName, f.Hostname},
		IP:  []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()},
	}
	if f.Domain != "" {
		s.DNS = append(s.DNS, "kubernetes.default.svc."+f.Domain)
	}
	s.IP = append(append(s.IP, f.Addresses...), f.ServiceIPs...)
	for _, e := range f.Extra {
		if a, err := netip.ParseAddr(e); err == nil {
			s.IP = append(s.IP, a)
			continue
		}
		s.DNS = append(s.DNS, e)
	}
	return s.normal()
}

func nodeSANs(f Facts) SANs {
	return SANs{DNS: []string{f.NodeName}, IP: f.Addresses}.normal()
}

// Text prints a tree for people: one line each, sorted below their issuer.
func Text(tree []Spec, f Facts) string {
	var b strings.Builder
	line := func(indent string, s Spec) {
		fields := []string{indent + s.Name, s.Use.String()}
		if s.CN != "" {
			fields = append(fields, "CN="+s.Subject(f))
		}
		for _, o := range s.Org {
			fields = append(fields, "O="+o)
		}
		if s.Kubeconfig {
			fields = append(fields, "kubeconfig")
		}
		fmt.Fprintln(&b, strings.Join(fields, "  "))
		sans := s.sans(f)
		for _, d := range sans.DNS {
			fmt.Fprintf(&b, "%s    DNS %s\n", indent, d)
		}
		for _, a := range sans.IP {
			fmt.Fprintf(&b, "%s    IP  %s\n", indent, a)
		}
	}
	own := map[string]bool{}
	for _, s := range tree {
		own[s.Name] = true
	}
	roots, children := []Spec{}, map[string][]Spec{}
	for _, s := range tree {
		if own[s.Issuer] {
			children[s.Issuer] = append(children[s.Issuer], s)
			continue
		}
		roots = append(roots, s)
	}
	slices.SortStableFunc(roots, func(a, b Spec) int { return cmp.Compare(a.Issuer, b.Issuer) })
	issuer := ""
	for _, s := range roots {
		indent := ""
		if s.Issuer != "" {
			indent = "  "
			if s.Issuer != issuer {
				fmt.Fprintf(&b, "%s (of the server)\n", s.Issuer)
			}
		}
		issuer = s.Issuer
		line(indent, s)
		for _, c := range children[s.Name] {
			line(indent+"  ", c)
		}
	}
	return b.String()
}
