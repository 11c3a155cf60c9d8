package join

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"skiff/pkg/pki"
	"skiff/pkg/token"
)

// Server answers joining nodes. It is an http.Handler for Path.
type Server struct {
	Store *pki.Store
	// Token admits a node that has no certificate yet.
	Token token.Token
	// Cluster is asked for at each request.
	Cluster func() Cluster
	// Reserved are addresses that no other machine may get a serving
	// certificate for: with one it could pose as the API server.
	Reserved func() []netip.Prefix
	Logger   *slog.Logger
}

var _ http.Handler = (*Server)(nil)

// refusal is an error with the HTTP status that tells it.
type refusal struct {
	status int
	error
}

func refuse(status int, format string, args ...any) error {
	return refusal{status, fmt.Errorf(format, args...)}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resp, err := s.answer(w, r)
	if err == nil {
		s.reply(w, http.StatusOK, resp)
		return
	}
	status := http.StatusInternalServerError
	if ref, ok := errors.AsType[refusal](err); ok {
		status = ref.status
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="skiff"`)
	}
	s.Logger.Warn("node was refused", "remote", r.RemoteAddr, "status", status, "error", err)
	if status == http.StatusInternalServerError {
		err = errors.New("the server could not issue the certificates; its log says why")
	}
	s.reply(w, status, Refusal{Message: err.Error()})
}

func (s *Server) reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		s.Logger.Debug("answer to a node was not delivered", "error", err)
	}
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) (*Response, error) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, refuse(http.StatusMethodNotAllowed, "method %s is not allowed, use POST", r.Method)
	}
	who, err := s.authenticate(r) // Before the body is read: strangers cost nothing.
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, refuse(http.StatusRequestEntityTooLarge, "request is larger than %d bytes", maxRequest)
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "read request: %w", err)
	}
	req, err := parseRequest(body)
	if err != nil {
		return nil, refusal{http.StatusBadRequest, err}
	}
	if err := s.authorize(who, req, r); err != nil {
		return nil, err
	}
	return s.issue(req)
}

// nodeName is a Kubernetes node name: a DNS subdomain (RFC 1123).
var nodeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// parseRequest reads a body and checks its form, not who sent it.
func parseRequest(body []byte) (*Request, error) {
	var req Request
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, fmt.Errorf("parse request: %w", err)
	}
	if req.Version != Version {
		return nil, fmt.Errorf("version %d of the join protocol is unknown to this server, it speaks %d; run the same release of skiff on both", req.Version, Version)
	}
	if len(req.Node.Name) > 253 || !nodeName.MatchString(req.Node.Name) {
		return nil, fmt.Errorf("node name %.260q is not a DNS name (lower-case letters, digits, \"-\" and \".\")", req.Node.Name)
	}
	for name := range req.CSRs {
		if specOf(name) == nil {
			return nil, fmt.Errorf("certificate %.100q is not one of a node", name)
		}
	}
	return &req, nil
}

func specOf(name string) *pki.Spec {
	for i := range pki.NodeTree {
		if pki.NodeTree[i].Name == name {
			return &pki.NodeTree[i]
		}
	}
	return nil
}

// caller is who sent a request: a holder of the token (any name) or a node.
type caller struct {
	node string // empty: came with the token
}

func (s *Server) authenticate(r *http.Request) (caller, error) {
	id, certErr := s.Store.VerifyPeer(r.TLS, pki.ClientCA)
	if certErr == nil {
		if node, ok := nodeOf(id); ok {
			return caller{node: node}, nil
		}
		certErr = fmt.Errorf("client certificate of %q is not that of a node", id.CN)
	}
	user, secret, ok := r.BasicAuth()
	if !ok {
		return caller{}, refuse(http.StatusUnauthorized, "no token, and %w", certErr)
	}
	if (user != token.UserServer && user != token.UserNode) || !s.Token.Accepts(secret) {
		return caller{}, refuse(http.StatusUnauthorized, "the token is not the one of this server")
	}
	return caller{}, nil
}

func nodeOf(id pki.Identity) (string, bool) {
	for prefix, org := range map[string]string{"system:node:": pki.NodesOrg, "system:skiff-agent:": pki.AgentsOrg} {
		if len(id.CN) > len(prefix) && id.CN[:len(prefix)] == prefix && slices.Contains(id.Org, org) {
			return id.CN[len(prefix):], true
		}
	}
	return "", false
}

// authorize keeps a node to its own name, and to addresses that are not the
// server's.
func (s *Server) authorize(who caller, req *Request, r *http.Request) error {
	if who.node != "" && who.node != req.Node.Name {
		return refuse(http.StatusForbidden, "node %q may not ask for certificates of node %q", who.node, req.Node.Name)
	}
	if isInProcess(r.Context()) {
		return nil
	}
	for _, a := range req.Node.Addresses {
		for _, p := range s.Reserved() {
			if p.Contains(a.Unmap()) {
				return refuse(http.StatusForbidden, "node address %s belongs to the server or to Services; set --node-ip to an address of the node", a)
			}
		}
	}
	return nil
}

// issue signs what was asked for. Subject and names come from the table, never
// from the request: of a CSR only the key is used, and a CSR that asks for
// something else is refused so that the mistake shows.
func (s *Server) issue(req *Request) (*Response, error) {
	resp := &Response{
		Version: Version, Certificates: map[string]string{}, Cluster: s.Cluster(),
		ServerCA: string(s.Store.CertPEM(pki.ServerCA)), ClientCA: string(s.Store.CertPEM(pki.ClientCA)),
		Lifetime: int64(s.Store.Lifetime / time.Second),
	}
	facts := pki.Facts{NodeName: req.Node.Name, Addresses: req.Node.Addresses}
	for name, text := range req.CSRs {
		csr, key, err := pki.ParseCSR([]byte(text))
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "%s: %w", name, err)
		}
		spec := specOf(name)
		want := spec.Request(facts, key)
		if csr.Subject.CommonName != want.CN || !slices.Equal(csr.Subject.Organization, want.Org) {
			return nil, refuse(http.StatusForbidden, "%s: a request for %q cannot be granted to node %q", name, csr.Subject.CommonName, req.Node.Name)
		}
		if have := pki.SANsOfRequest(csr); have.String() != want.SANs.String() {
			return nil, refuse(http.StatusForbidden, "%s: requested names %q are not those of the node (%q)", name, have, want.SANs)
		}
		cert, err := s.Store.Sign(want)
		if err != nil {
			return nil, err
		}
		resp.Certificates[name] = string(cert)
	}
	if len(req.CSRs) > 0 {
		s.Logger.Info("node got certificates", "node", req.Node.Name, "count", len(req.CSRs))
	}
	return resp, nil
}
