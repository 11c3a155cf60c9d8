package join

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"skiff/internal/ratelimit"
	"skiff/pkg/pki"
	"skiff/pkg/token"
)

// Server answers joining nodes. It is an http.Handler for Path. NewServer makes
// one; all fields but Bootstrap must be set before the first request.
type Server struct {
	Store *pki.Store
	// Tokens admit a node that has no certificate yet, and TokenFile is where
	// a person finds the one for agents.
	Tokens    *token.Book
	TokenFile string
	// Bootstrap knows the bootstrap tokens; nil means that there are none.
	Bootstrap Bootstrap
	Names     Names
	// Cluster is asked for at each request.
	Cluster func() Cluster
	// Own is the name of the node in the server's process, which no other
	// machine may have.
	Own string
	// Reserved are addresses that no other machine may get a serving
	// certificate for: with one it could pose as the API server.
	Reserved func() []netip.Prefix
	Version  string // of skiff
	Logger   *slog.Logger

	guesses *ratelimit.Keyed[netip.Prefix]
}

// NewServer returns s, ready for use.
func NewServer(s Server) *Server {
	s.guesses = newGuesses(s.Store.Now)
	return &s
}

var _ http.Handler = (*Server)(nil)

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resp, err := s.answer(w, r)
	if err == nil {
		s.reply(w, http.StatusOK, resp)
		return
	}
	s.refuse(w, r, err)
}

// refuse tells the caller and the log why.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	code, level := CodeOf(err), slog.LevelWarn
	switch code {
	case CodeToken, CodeBootstrap, CodeUnknown:
		w.Header().Set("WWW-Authenticate", `Basic realm="skiff"`)
	case CodeStarting, CodeBusy: // There will be more of them, and they say nothing new.
		level = slog.LevelDebug
	case CodeMethod:
		w.Header().Set("Allow", http.MethodPost)
	}
	if after := retryAfter(err); after != "" {
		w.Header().Set("Retry-After", after)
	}
	s.Logger.Log(r.Context(), level, "caller was refused", "remote", r.RemoteAddr, "path", r.URL.Path, "code", string(code), "error", err)
	if code == CodeInternal {
		err = errors.New("the server could not do this; its log says why")
	}
	s.reply(w, code.Status(), Refusal{Code: code, Message: err.Error()})
}

func (s *Server) reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		s.Logger.Debug("answer to a node was not delivered", "error", err)
	}
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) (*Response, error) {
	who, body, err := s.receive(w, r)
	if err != nil {
		return nil, err
	}
	req, err := parseRequest(body)
	if err != nil {
		return nil, err
	}
	if err := s.authorize(r.Context(), who, req); err != nil {
		return nil, err
	}
	return s.issue(req)
}

// receive authenticates the caller and then reads the body: strangers cost
// nothing.
func (s *Server) receive(w http.ResponseWriter, r *http.Request) (caller, []byte, error) {
	if r.Method != http.MethodPost {
		return caller{}, nil, Refuse(CodeMethod, "method %.20s is not allowed, use POST", r.Method)
	}
	who, err := s.authenticate(r)
	if err != nil {
		return caller{}, nil, err
	}
	body, err := s.read(w, r)
	return who, body, err
}

func (s *Server) read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxRequest))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, Refuse(CodeTooLarge, "request is larger than %d bytes", MaxRequest)
	}
	if err != nil {
		return nil, Refuse(CodeRequest, "read request: %w", err)
	}
	return body, nil
}

// nodeName is a Kubernetes node name: a DNS subdomain (RFC 1123).
var nodeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// parseRequest reads a body and checks its form, not who sent it.
func parseRequest(body []byte) (*Request, error) {
	var req Request
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, Refuse(CodeRequest, "parse request: %w", err)
	}
	if req.Version != Version {
		return nil, Refuse(CodeVersion, "version %d of the join protocol is unknown to this server, it speaks %d; run the same release of skiff on both", req.Version, Version)
	}
	if len(req.Node.Name) > 253 || !nodeName.MatchString(req.Node.Name) {
		return nil, Refuse(CodeRequest, "node name %.260q is not a DNS name (lower-case letters, digits, \"-\" and \".\")", req.Node.Name)
	}
	if len(req.Node.Addresses) > maxAddresses {
		return nil, Refuse(CodeRequest, "%d node addresses are more than %d", len(req.Node.Addresses), maxAddresses)
	}
	for name := range req.CSRs {
		if specOf(name) == nil {
			return nil, Refuse(CodeRequest, "certificate %.100q is not one of a node", name)
		}
	}
	for _, text := range []string{req.Node.Password.Reveal(), req.Node.Machine, req.Node.Version} {
		if len(text) > maxText {
			return nil, Refuse(CodeRequest, "a field of the request is longer than %d bytes", maxText)
		}
	}
	return &req, nil
}

// Bounds of what a certificate and a log line are made from.
const (
	maxText      = 256
	maxAddresses = 32
)

func specOf(name string) *pki.Spec {
	for i := range pki.NodeTree {
		if pki.NodeTree[i].Name == name {
			return &pki.NodeTree[i]
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
			return nil, Refuse(CodeRequest, "%s: %w", name, err)
		}
		spec := specOf(name)
		want := spec.Request(facts, key)
		if csr.Subject.CommonName != want.CN || !slices.Equal(csr.Subject.Organization, want.Org) {
			return nil, Refuse(CodeForbidden, "%s: a request for %q cannot be granted to node %q", name, csr.Subject.CommonName, req.Node.Name)
		}
		if have := pki.SANsOfRequest(csr); have.String() != want.SANs.String() {
			return nil, Refuse(CodeForbidden, "%s: requested names %q are not those of the node (%q)", name, have, want.SANs)
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
