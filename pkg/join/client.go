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
	"sync/atomic"
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
	// PasswordFile is where the node keeps its password, which it makes if
	// there is none; empty means that it has none. Machine is NodeInfo's.
	PasswordFile string
	Machine      string
	// APIServer is what the kubeconfigs point to; default URL.
	APIServer string
	// Dial connects to a server, whatever URL says; nil dials URL.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Clock is the node's; default time.Now. Floor is a moment that has
	// certainly passed, and Heard is told the time of a server that has proven to
	// be one; both may be nil.
	Clock  func() time.Time
	Floor  func() time.Time
	Heard  func(server string, theirs time.Time)
	Logger *slog.Logger

	mu    sync.Mutex   // held for the whole of Join
	ahead atomic.Int64 // how far the server's clock was ahead at the last contact
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
	if node, err = c.introduce(node); err != nil {
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
				return nil, call.explain(fmt.Errorf("what the server issued is of no use here: %s", why))
			}
			if call.ahead.Abs() > maxApart {
				c.Logger.Warn("the clocks of node and server differ", "node", c.now().UTC().Format(time.DateTime), "serverAhead", call.ahead.Round(time.Second).String())
			}
			if c.Heard != nil && call.caPEM != "" {
				c.Heard(c.URL, c.serverNow())
			}
			return b, nil
		}
	}
	return nil, errors.New("the server issues certificates that do not belong to its own authorities")
}

// call is a way to talk to a server that has been verified.
type call struct {
	*Client
	http  *http.Client
	caPEM string // what the server has been verified against; empty in process
	// ahead is how far the server's clock is ahead of this node's, by its own
	// account.
	ahead time.Duration
}

// caller verifies the server before anything is sent to it.
func (c *Client) caller(ctx context.Context, d *disk) (*call, error) {
	if c.Transport != nil {
		c.ahead.Store(0)
		return &call{Client: c, http: &http.Client{Transport: c.Transport}}, nil
	}
	caPEM, ahead, err := c.fetchCA(ctx)
	if err != nil {
		return nil, err
	}
	c.ahead.Store(int64(ahead))
	known := d.serverCA()
	switch {
	case known != nil && sameAuthority(known, caPEM): // The pin may be of an older certificate.
	case c.Token.Pinned() || known == nil:
		err = c.Token.VerifyCA(caPEM)
	default:
		err = fmt.Errorf("%w: the authority is not the one this node joined; give the full token (K10…) of the new one", token.ErrCAMismatch)
	}
	if err != nil {
		return nil, err
	}
	if !c.Token.Pinned() && known == nil {
		c.Logger.Warn("server is trusted without proof, the token has no pin; use the full form K10…", "server", c.URL)
	}
	return c.verified(caPEM, ahead, d.clientCertificate())
}

// stranger is caller for somebody who has no certificate of a node.
func (c *Client) stranger(ctx context.Context) (*call, error) {
	if c.Transport != nil {
		return &call{Client: c, http: &http.Client{Transport: c.Transport}}, nil
	}
	caPEM, ahead, err := c.fetchCA(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.Token.VerifyCA(caPEM); err != nil {
		return nil, err
	}
	return c.verified(caPEM, ahead, nil)
}

func (c *Client) verified(caPEM []byte, ahead time.Duration, own *tls.Certificate) (*call, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(caPEM) {
		return nil, errors.New("the server's authority is not a certificate")
	}
	// Every server's certificate is valid for the loopback address, and no other
	// machine gets one that is. So it does not matter under which name or address
	// a node reaches its server.
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Time: c.judged(ahead), ServerName: serverName}
	if own != nil {
		conf.Certificates = []tls.Certificate{*own}
	}
	t := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true, DisableKeepAlives: true, DialContext: c.Dial}
	return &call{Client: c, http: &http.Client{Transport: t, CheckRedirect: noRedirects}, caPEM: string(caPEM), ahead: ahead}, nil
}

// serverName is what a server proves to be.
const serverName = "127.0.0.1"

// noRedirects keeps a token from going anywhere but to the server it is for.
func noRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// fetchCA asks for the authority without verifying who answers: the pin does.
// It also returns how far the other clock is ahead.
func (c *Client) fetchCA(ctx context.Context) ([]byte, time.Duration, error) {
	if !strings.HasPrefix(c.URL, "https://") {
		return nil, 0, fmt.Errorf("server address %q does not begin with https://", c.URL)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+CACertsPath, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("invalid server address %q: %w", c.URL, err)
	}
	client := &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}, //nolint:gosec // Nothing is sent, and the answer is verified by its hash.
			DisableKeepAlives: true,
			DialContext:       c.Dial,
		},
		CheckRedirect: noRedirects,
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, 0, unreachable(c.URL, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse))
	if err != nil {
		return nil, 0, unreachable(c.URL, err)
	}
	if err := unlikely(c.URL, resp, body); err != nil {
		return nil, 0, err
	}
	var ahead time.Duration
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		ahead = date.Sub(c.now())
	}
	return body, ahead, nil
}

// pinned checks that the answer names the authority the server was verified by.
func (c *call) pinned(caPEM string) error {
	if c.caPEM != "" && c.caPEM != caPEM {
		return fmt.Errorf("%w: the answer names another than the connection", token.ErrCAMismatch)
	}
	if c.caPEM != "" {
		return nil // The connection was verified by it.
	}
	return c.Token.VerifyCA([]byte(caPEM))
}

func (c *call) do(ctx context.Context, body Request) (*Response, error) {
	var out Response
	if err := c.post(ctx, Path, body, &out); err != nil {
		return nil, err
	}
	if out.Version != Version {
		return nil, fmt.Errorf("the server answers version %d of the join protocol, this node speaks %d", out.Version, Version)
	}
	return &out, nil
}

// post sends one request and reads its answer.
func (c *call) post(ctx context.Context, path string, body, out any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base()+path, bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("ask the server: %w", err)
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
		return c.explain(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse))
	if err != nil {
		return unreachable(c.base(), err)
	}
	if resp.StatusCode != http.StatusOK {
		var why Refusal
		if json.Unmarshal(answer, &why) != nil || why.Message == "" {
			why.Message = http.StatusText(resp.StatusCode)
		}
		return &RefusedError{Status: resp.StatusCode, Code: why.Code, Message: why.Message}
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("parse the server's answer: %w", err)
	}
	return nil
}

// introduce completes what the node says of itself.
func (c *Client) introduce(node NodeInfo) (NodeInfo, error) {
	if node.Machine == "" {
		node.Machine = c.Machine
	}
	if c.PasswordFile == "" || node.Password != "" {
		return node, nil
	}
	password, err := token.Password(c.PasswordFile)
	if err != nil && c.Transport != nil {
		// Nobody asks a node in the server's process for it.
		c.Logger.Warn("this node has no password", "error", err)
		err = nil
	}
	node.Password = password
	return node, err
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
	store := pki.NewStore(c.TLSDir, c.serverNow, c.Logger)
	return newDisk(store, c.CredDir, c.apiServer(), pki.Facts{NodeName: node.Name, Addresses: node.Addresses})
}
