package join

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"skiff/pkg/pki"
	"skiff/pkg/token"
)

// RotateRequest asks a server for another token.
type RotateRequest struct {
	Version int `json:"version"`
	// Kind is "server" or "agent".
	Kind string `json:"kind"`
	// New is the secret; empty means a random one.
	New token.Secret `json:"new,omitempty"`
}

// RotateResponse has the new token in full.
type RotateResponse struct {
	Token token.Secret `json:"token"`
}

// Rotation answers at TokenPath: to administrators and to holders of the server
// token it gives another token.
type Rotation struct{ Server *Server }

var _ http.Handler = Rotation{}

// ServeHTTP implements http.Handler.
func (h Rotation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resp, err := h.answer(w, r)
	if err != nil {
		h.Server.refuse(w, r, err)
		return
	}
	h.Server.reply(w, http.StatusOK, resp)
}

func (h Rotation) answer(w http.ResponseWriter, r *http.Request) (*RotateResponse, error) {
	s := h.Server
	if err := s.mayRotate(r); err != nil {
		return nil, err
	}
	body, err := s.read(w, r)
	if err != nil {
		return nil, err
	}
	var req RotateRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, Refuse(CodeRequest, "parse request: %w", err)
	}
	kind := map[string]token.Kind{"server": token.Server, "agent": token.Agent}[req.Kind]
	if req.Version != Version || kind == token.Unknown {
		return nil, Refuse(CodeRequest, "version %d of a request for a token of kind %.20q is unknown to this server", req.Version, req.Kind)
	}
	t, err := s.Tokens.Rotate(kind, req.New)
	switch {
	case errors.Is(err, token.ErrConfigured), errors.Is(err, token.ErrMalformed):
		return nil, Refuse(CodeRequest, "%w", err)
	case err != nil:
		return nil, err
	}
	s.Logger.Info("token changed; nodes that have joined go on as before", "kind", kind.String(), "remote", r.RemoteAddr)
	return &RotateResponse{Token: token.Secret(t.Reveal())}, nil
}

// mayRotate admits administrators and servers.
func (s *Server) mayRotate(r *http.Request) error {
	if r.Method != http.MethodPost {
		return Refuse(CodeMethod, "method %.20s is not allowed, use POST", r.Method)
	}
	if id, err := s.Store.VerifyPeer(r.TLS, pki.ClientCA); err == nil && id.Has(pki.MastersOrg) {
		return nil
	}
	who, err := s.authenticate(r)
	if err != nil {
		return err
	}
	switch who.token {
	case token.Server:
		return nil
	case token.Agent, token.Bootstrap:
		return Refuse(CodeForbidden, "this is an %s, which lets agents join and nothing else; take the server token", who.token)
	default:
		return Refuse(CodeForbidden, "a node may not change tokens; use the server token or an administrator's certificate")
	}
}

// Rotate asks the server at c.URL for another token of a kind ("server" or
// "agent"). It proves itself by c.Token, or by the client certificate of
// c.Transport.
func (c *Client) Rotate(ctx context.Context, kind string, fresh token.Secret) (token.Token, error) {
	call, err := c.stranger(ctx)
	if err != nil {
		return token.Token{}, err
	}
	var resp RotateResponse
	if err := call.post(ctx, TokenPath, RotateRequest{Version: Version, Kind: kind, New: fresh}, &resp); err != nil {
		return token.Token{}, err
	}
	return token.Parse(resp.Token.Reveal())
}
