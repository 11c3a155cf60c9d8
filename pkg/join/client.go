package join

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"skiff/pkg/pki"
	"skiff/pkg/token"
)

// Times a node waits for a server.
const (
	requestTimeout = 15 * time.Second
	// offlineAfter is the patience of a node that could start without a server.
	offlineAfter = 3 * time.Second
)

// Client joins one node to a server. Set its fields before the first call.
type Client struct {
	// Transport reaches a server in the same process; nil means HTTPS to URL.
	Transport http.RoundTripper
	URL       string // of the server, "https://10.0.0.1:6443"
	Token     token.Token
	TLSDir    string // where keys and certificates are kept
	CredDir   string // where kubeconfigs and the cluster's settings are kept
	// APIServer is what the kubeconfigs point to; default URL.
	APIServer string
	// Dial connects to a server, whatever URL says; nil dials URL.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Clock is the node's; default time.Now.
	Clock  func() time.Time
	Logger *slog.Logger

	mu sync.Mutex // held for the whole of Join
}

// RefusedError says that the server answered and did not want this node.
type RefusedError struct {
	Status  int
	Message string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the server refused this node (%d): %s", e.Status, e.Message)
}

// Join returns the node's identity, as fresh as can be had: it renews what the
// server will renew, and when the server cannot be reached or refuses, it
// falls back on what is on disk if that is still valid. It does not retry; see
// Member. The directories are made if needed.
func (c *Client) Join(ctx context.Context, node NodeInfo) (*Bundle, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := c.openDisk(node)
	if err != nil {
		return nil, fmt.Errorf("join the cluster: %w", err)
	}
	stored, why := d.load()
	patience := requestTimeout
	if stored != nil {
		patience = offlineAfter
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer within %s", patience))
	defer cancel()
	fresh, err := c.exchange(ctx, d, node)
	if err == nil {
		return fresh, nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = fmt.Errorf("%w (%w)", err, cause)
	}
	if stored == nil {
		return nil, fmt.Errorf("join the cluster at %s: %w (nothing usable from an earlier time: %s)", c.URL, err, why)
	}
	stored.Stale = err
	return stored, nil
}

// Stored returns what the node has of an earlier time, for a start without a
// server; if it has nothing the string says why. That the certificates may have
// expired, or name addresses that the node had then, is no reason: a server
// will replace them, and what needs none works.
func (c *Client) Stored(node NodeInfo) (*Bundle, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := c.openDisk(node)
	if err != nil {
		return nil, err.Error()
	}
	b, why := d.loadWith(d.present)
	if b == nil {
		return nil, why
	}
	// The way to the API may be another than the last time.
	if err := d.writeKubeconfigs(); err != nil {
		return nil, err.Error()
	}
	return b, ""
}

// exchange asks until all certificates on disk are good. Twice is enough: the
// first answer may bring other authorities, which makes the rest stale.
func (c *Client) exchange(ctx context.Context, d *disk, node NodeInfo) (*Bundle, error) {
	call, err := c.caller(ctx, d)
	if err != nil {
		return nil, err
	}
	for range 2 {
		req := Request{Version: Version, Node: node}
		if req.CSRs, err = d.requests(); err != nil {
			return nil, err
		}
		resp, err := call.do(ctx, req)
		if err != nil {
			return nil, err
		}
		if err := call.pinned(resp.ServerCA); err != nil {
			return nil, err
		}
		done, err := d.store(resp)
		if err != nil {
			return nil, err
		}
		if done {
			b, why := d.load()
			if b == nil {
				return nil, fmt.Errorf("read back what the server issued: %s; do the clocks of node and server agree?", why)
			}
			return b, nil
		}
	}
	return nil, errors.New("the server issues certificates that do not belong to its own authorities")
}

// call is a way to talk to a server that has been verified.
type call struct {
	*Client
	http   *http.Client
	caPEM  string // what the server has been verified against; empty in process
	asNode bool   // a certificate is presented, the token is the fallback
}

// caller verifies the server before anything is sent to it.
func (c *Client) caller(ctx context.Context, d *disk) (*call, error) {
	if c.Transport != nil {
		return &call{Client: c, http: &http.Client{Transport: c.Transport}}, nil
	}
	if !strings.HasPrefix(c.URL, "https://") {
		return nil, fmt.Errorf("server address %q does not begin with https://", c.URL)
	}
	caPEM, err := c.fetchCA(ctx)
	if err != nil {
		return nil, err
	}
	known := d.serverCA()
	if c.Token.Pinned() || known == nil {
		err = c.Token.VerifyCA(caPEM)
	} else if !bytes.Equal(known, caPEM) {
		err = fmt.Errorf("%w: the authority is not the one this node joined; give the full token (K10…) of the new one", token.ErrCAMismatch)
	}
	if err != nil {
		return nil, err
	}
	if !c.Token.Pinned() && known == nil {
		c.Logger.Warn("server is trusted without proof, the token has no pin; use the full form K10…", "server", c.URL)
	}
	return c.verified(caPEM, d)
}

func (c *Client) verified(caPEM []byte, d *disk) (*call, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(caPEM) {
		return nil, errors.New("the server's authority is not a certificate")
	}
	// Every server's certificate is valid for the loopback address, and no other
	// machine gets one that is. So it does not matter under which name or address
	// a node reaches its server.
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Time: c.now, ServerName: serverName}
	own := d.clientCertificate()
	if own != nil {
		conf.Certificates = []tls.Certificate{*own}
	}
	t := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true, DisableKeepAlives: true, DialContext: c.Dial}
	return &call{Client: c, http: &http.Client{Transport: t}, caPEM: string(caPEM), asNode: own != nil}, nil
}

// serverName is what a server proves to be.
const serverName = "127.0.0.1"

// fetchCA asks for the authority without verifying who answers: the pin does.
func (c *Client) fetchCA(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+CACertsPath, nil)
	if err != nil {
		return nil, fmt.Errorf("ask for the server's authority: %w", err)
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}, //nolint:gosec // Nothing is sent, and the answer is verified by its hash.
		DisableKeepAlives: true,
		DialContext:       c.Dial,
	}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask for the server's authority: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse))
	if err != nil {
		return nil, fmt.Errorf("ask for the server's authority: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask for the server's authority: %s answered %s; is it a skiff server?", c.URL, resp.Status)
	}
	return body, nil
}

// pinned checks that the answer names the authority the server was verified by.
func (c *call) pinned(caPEM string) error {
	if c.caPEM != "" && c.caPEM != caPEM {
		return fmt.Errorf("%w: the answer names another than the connection", token.ErrCAMismatch)
	}
	return c.Token.VerifyCA([]byte(caPEM))
}

func (c *call) do(ctx context.Context, body Request) (*Response, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("ask for certificates: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base()+Path, bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("ask for certificates: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if c.Token.Secret != "" {
		user := c.Token.User
		if user == "" {
			user = token.UserNode
		}
		req.SetBasicAuth(user, c.Token.Secret.Reveal())
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask for certificates: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse))
	if err != nil {
		return nil, fmt.Errorf("ask for certificates: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var why Refusal
		if json.Unmarshal(answer, &why) != nil || why.Message == "" {
			why.Message = http.StatusText(resp.StatusCode)
		}
		return nil, &RefusedError{Status: resp.StatusCode, Message: why.Message}
	}
	var out Response
	if err := json.Unmarshal(answer, &out); err != nil {
		return nil, fmt.Errorf("parse the server's answer: %w", err)
	}
	if out.Version != Version {
		return nil, fmt.Errorf("the server answers version %d of the join protocol, this node speaks %d", out.Version, Version)
	}
	return &out, nil
}

// base is where requests go; in process the name is of no consequence.
func (c *Client) base() string {
	if c.URL == "" {
		return "https://in-process"
	}
	return c.URL
}

func (c *Client) apiServer() string {
	if c.APIServer != "" {
		return c.APIServer
	}
	return c.base()
}

func (c *Client) now() time.Time {
	if c.Clock == nil {
		return time.Now()
	}
	return c.Clock()
}

func (c *Client) openDisk(node NodeInfo) (*disk, error) {
	store := pki.NewStore(c.TLSDir, c.now, c.Logger)
	return newDisk(store, c.CredDir, c.apiServer(), pki.Facts{NodeName: node.Name, Addresses: node.Addresses})
}
