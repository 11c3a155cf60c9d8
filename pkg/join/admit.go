package join

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"skiff/internal/ratelimit"
	"skiff/pkg/pki"
	"skiff/pkg/token"
)

// Claim is what a machine says to have a name.
type Claim struct {
	Node     string
	Password token.Secret
	Machine  string
	// New is set if the machine has shown a token, which lets it have a name
	// that nobody has. Otherwise it is a node that proves to be the old one.
	New bool
	// Proven is set if the node's valid certificate was shown: its claim is
	// only to be noted, in case nobody has the name.
	Proven bool
}

// Names knows which machine has which name. Claim returns nil if the machine
// may have it, and an error made with Refuse if not, or if that cannot be told
// at this moment.
type Names interface {
	Claim(ctx context.Context, c Claim) error
}

// Bootstrap verifies a bootstrap token. Errors are made with Refuse.
type Bootstrap interface {
	Verify(ctx context.Context, t token.Token) error
}

// refusal is an error that is told to the caller.
type refusal struct {
	code Code
	error
}

// Refuse makes the error by which a part of the server refuses a caller. Its
// text goes to the caller.
func Refuse(code Code, format string, args ...any) error {
	return refusal{code, fmt.Errorf(format, args...)}
}

// CodeOf tells why an error of Refuse refuses.
func CodeOf(err error) Code {
	if r, ok := errors.AsType[refusal](err); ok {
		return r.code
	}
	return CodeInternal
}

// caller is who sent a request. More than one may be true.
type caller struct {
	here  bool       // it came from this process
	node  string     // it has the key of this node's certificate
	fresh bool       // and the certificate is valid
	token token.Kind // it has this token
	wrong error      // it has a token that is none
}

// authenticate finds out who calls, and refuses strangers. It looks at nothing
// but the head of the request.
func (s *Server) authenticate(r *http.Request) (caller, error) {
	if isInProcess(r.Context()) {
		return caller{here: true}, nil
	}
	var who caller
	who.node, who.fresh = s.peer(r)
	_, secret, given := r.BasicAuth()
	if given && secret != "" {
		if err := s.try(r, &who, token.Token{Secret: token.Secret(secret)}); err != nil {
			return caller{}, err
		}
	}
	switch {
	case who.node != "" || who.token != token.Unknown:
		return who, nil
	case who.wrong != nil:
		return caller{}, who.wrong
	case given:
		return caller{}, Refuse(CodeToken, "the token is empty")
	}
	return caller{}, Refuse(CodeToken, "neither a token nor a certificate of a node of this cluster was shown; a node that has lost its certificates needs --token")
}

// peer returns the node that the client certificate is of.
func (s *Server) peer(r *http.Request) (node string, fresh bool) {
	id, err := s.Store.VerifyPeer(r.TLS, pki.ClientCA)
	if err == nil {
		node = nodeOf(id)
		return node, node != ""
	}
	if id, err = s.Store.VerifyPeerUndated(r.TLS, pki.ClientCA); err != nil {
		return "", false
	}
	return nodeOf(id), false
}

// Node returns the node that a request is from, by its valid certificate: for
// paths that are for nodes only.
func (s *Server) Node(r *http.Request) (string, error) {
	if node, fresh := s.peer(r); fresh {
		return node, nil
	}
	return "", Refuse(CodeForbidden, "this is for nodes of the cluster, and no valid client certificate of one was shown")
}

// try looks the token up. Whoever guesses is slowed down, be the guess right or
// not; a bootstrap token is looked up in the cluster, which costs something.
func (s *Server) try(r *http.Request, who *caller, t token.Token) error {
	remote := Remote(r)
	if ok, wait := s.guesses.Take(remote); !ok {
		if who.fresh {
			return nil
		}
		return busy(wait, "too many wrong tokens came from %s", remote)
	}
	who.token = s.Tokens.Kind(t.Secret.Reveal())
	if who.token == token.Unknown && t.Bootstrap() && !who.fresh && s.Bootstrap != nil {
		err := s.Bootstrap.Verify(r.Context(), t)
		if err == nil {
			who.token = token.Bootstrap
		} else if who.wrong = err; CodeOf(err) != CodeBootstrap {
			s.guesses.Return(remote)
		}
	}
	if who.token != token.Unknown {
		s.guesses.Return(remote)
		return nil
	}
	if who.wrong == nil {
		who.wrong = Refuse(CodeToken, "the token is not one of this cluster; the one for agents is in %s on the server, and `skiff token create` makes another there", s.TokenFile)
	}
	return nil
}

// busyError is a refusal with the time after which to come back.
type busyError struct {
	error
	after time.Duration
}

func (e busyError) Unwrap() error { return e.error }

func busy(after time.Duration, format string, args ...any) error {
	return busyError{Refuse(CodeBusy, format+"; try again in %s", append(args, after.Round(time.Second))...), after}
}

// retryAfter is how long a refused caller should wait, in seconds, or "".
func retryAfter(err error) string {
	if b, ok := errors.AsType[busyError](err); ok {
		return strconv.Itoa(int(b.after/time.Second) + 1)
	}
	if CodeOf(err) == CodeStarting {
		return "1"
	}
	return ""
}

// Remote is whom the requests of a machine are counted against: its address,
// or the network of an IPv6 address, of which one machine can have as many as
// it likes.
func Remote(r *http.Request) netip.Prefix {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	a, bits := at.Addr().Unmap().WithZone(""), 64
	if a.Is4() {
		bits = 32
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// newGuesses allows somebody who mistypes a token, and a fleet of such machines
// behind one address, and is no help to who tries them all.
func newGuesses(now func() time.Time) *ratelimit.Keyed[netip.Prefix] {
	return &ratelimit.Keyed[netip.Prefix]{Rate: 0.5, Burst: 30, Keys: 4096, Now: now}
}

// nodeOf returns the node of a certificate, "" of another.
func nodeOf(id pki.Identity) string {
	node, ok := strings.CutPrefix(id.CN, "system:node:")
	if !ok || !id.Has(pki.NodesOrg) {
		return ""
	}
	return node
}

// authorize keeps a node to its own name, and to names and addresses that are
// not the server's.
func (s *Server) authorize(ctx context.Context, who caller, req *Request) error {
	if who.here {
		return nil
	}
	name := req.Node.Name
	if who.node != name && who.token == token.Unknown {
		if who.wrong != nil {
			return who.wrong
		}
		return Refuse(CodeForbidden, "node %q may not ask for certificates of node %q", who.node, name)
	}
	if err := s.unreserved(req.Node); err != nil {
		return err
	}
	claim := Claim{Node: name, Password: req.Node.Password, Machine: req.Node.Machine, New: who.token != token.Unknown}
	if who.node == name && who.fresh {
		if claim.Proven = true; claim.Password != "" {
			if err := s.Names.Claim(ctx, claim); err != nil {
				s.Logger.Debug("node's password was not noted", "node", name, "error", err)
			}
		}
		return nil
	}
	if err := s.fits(req.Node.Version); err != nil {
		return err
	}
	if claim.Password == "" {
		return Refuse(CodeRequest, "the request has no node password; run the same release of skiff on node and server")
	}
	err := s.Names.Claim(ctx, claim)
	if CodeOf(err) == CodeUnknown && who.wrong != nil {
		return who.wrong
	}
	return err
}

// unreserved refuses names and addresses with which a certificate of a node
// would pass for the server's.
func (s *Server) unreserved(n NodeInfo) error {
	var server pki.SANs
	if certs, err := pki.ParseCerts(s.Store.CertPEM(pki.ServingAPI)); err == nil {
		server = pki.SANsOf(certs[0])
	}
	if n.Name == s.Own || slices.Contains(server.DNS, n.Name) {
		return Refuse(CodeName, "node name %q is one of the server's own; choose another with --node-name, or let skiff add something to it with --with-node-id", n.Name)
	}
	for _, a := range n.Addresses {
		a = a.Unmap()
		if slices.Contains(server.IP, a) || slices.ContainsFunc(s.Reserved(), func(p netip.Prefix) bool { return p.Contains(a) }) {
			return Refuse(CodeAddress, "node address %s belongs to the server or to Services; set --node-ip to an address of the node", a)
		}
	}
	return nil
}

// maxBehind is how many minor versions a kubelet may be older than the API
// server, as upstream has it.
const maxBehind = 3

// fits refuses a node whose Kubernetes the server's does not go together with.
// Versions that say nothing are let pass.
func (s *Server) fits(version string) error {
	server, ok1 := minor(s.Version)
	node, ok2 := minor(version)
	if !ok1 || !ok2 {
		return nil
	}
	if node > server {
		return Refuse(CodeVersion, "the node runs skiff %.40q, which is newer than the server's %q; update the server first", version, s.Version)
	}
	if server-node > maxBehind {
		return Refuse(CodeVersion, "the node runs skiff %.40q, which is too old for the server's %q; update the node", version, s.Version)
	}
	return nil
}

// minor reads "v1.36.3+skiff1".
func minor(version string) (int, bool) {
	rest, ok := strings.CutPrefix(version, "v1.")
	if !ok {
		return 0, false
	}
	digits, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(digits)
	return n, err == nil
}
