package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"skiff/pkg/pki"
	"skiff/pkg/token"
)

func addr(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }

func TestRefusals(t *testing.T) {
	other := token.Token{CAHash: strings.Repeat("ab", 32), User: token.UserServer, Secret: "x"}
	tests := []struct {
		name   string
		change func(w *world, c *Client, n *NodeInfo)
		code   Code
		is     error
		calls  int
	}{
		{"wrong secret", func(_ *world, c *Client, _ *NodeInfo) { c.Token.Secret = "guess" }, CodeToken, nil, 1},
		{"no token", func(_ *world, c *Client, _ *NodeInfo) { c.Token = token.Token{} }, CodeToken, nil, 1},
		{"another server: nothing is sent", func(_ *world, c *Client, _ *NodeInfo) { c.Token = other }, "", token.ErrCAMismatch, 0},
		{"node name", func(_ *world, _ *Client, n *NodeInfo) { n.Name = "../x" }, CodeRequest, nil, 1},
		{"name of the server", func(_ *world, _ *Client, n *NodeInfo) { n.Name = "s1" }, CodeName, nil, 1},
		{"name of the API", func(_ *world, _ *Client, n *NodeInfo) { n.Name = "kubernetes.default.svc" }, CodeName, nil, 1},
		{"address of the server", func(_ *world, _ *Client, n *NodeInfo) { n.Addresses = addr("10.0.0.1") }, CodeAddress, nil, 1},
		{"address of the API service", func(_ *world, _ *Client, n *NodeInfo) { n.Addresses = addr("::ffff:10.43.0.1") }, CodeAddress, nil, 1},
		{"loopback", func(_ *world, _ *Client, n *NodeInfo) { n.Addresses = addr("127.0.0.1") }, CodeAddress, nil, 1},
		{"newer", func(_ *world, _ *Client, n *NodeInfo) { n.Version = "v1.37.0+skiff1" }, CodeVersion, nil, 1},
		{"too old", func(_ *world, _ *Client, n *NodeInfo) { n.Version = "v1.32.9+skiff1" }, CodeVersion, nil, 1},
		{"no password", func(_ *world, c *Client, _ *NodeInfo) { c.PasswordFile = "" }, CodeRequest, nil, 1},
		{"name of another", func(w *world, _ *Client, _ *NodeInfo) { w.names.passwords["n1"] = "another" }, CodeName, nil, 1},
		{"API down", func(w *world, _ *Client, _ *NodeInfo) { w.names.down = Refuse(CodeStarting, "wait") }, CodeStarting, nil, 1},
		{"expired bootstrap token", func(_ *world, c *Client, _ *NodeInfo) { c.Token.User, c.Token.Secret = "", "abcdef.0123456789abcdef" }, CodeBootstrap, nil, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.join.Bootstrap = &timed{secret: "abcdef.0123456789abcdef", until: w.now, now: w.clock}
			c, n := w.remote(), n1
			tt.change(w, c, &n)
			_, err := c.Join(t.Context(), n)
			ref, _ := errors.AsType[*RefusedError](err)
			if err == nil || (tt.code != "" && (ref == nil || ref.Code != tt.code || ref.Status != tt.code.Status())) || (tt.is != nil && !errors.Is(err, tt.is)) {
				t.Errorf("error %v", err)
			}
			if w.calls != tt.calls {
				t.Errorf("%d calls reached the server, want %d", w.calls, tt.calls)
			}
		})
	}
}

func TestEachFormOfTokenJoins(t *testing.T) {
	w := newWorld(t)
	full := w.join.Tokens.Token(token.Server)
	boot := token.Token{CAHash: full.CAHash, Secret: "abcdef.0123456789abcdef"}
	w.join.Bootstrap = &timed{secret: boot.Secret, until: w.now.Add(time.Hour), now: w.clock}
	for name, tok := range map[string]token.Token{
		"server": full, "agent": w.token, "short server": {Secret: full.Secret}, "short agent": {Secret: w.token.Secret},
		"bootstrap": boot, "short bootstrap": {Secret: boot.Secret},
	} {
		c := w.remote()
		c.Token = tok
		n := n1
		n.Name = "n-" + strings.ReplaceAll(name, " ", "-")
		if _, err := c.Join(t.Context(), n); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNodeStaysInItsName joins n1 and then calls with its certificate only.
func TestNodeStaysInItsName(t *testing.T) {
	w := newWorld(t)
	c := w.remote()
	w.mustJoin(c, n1)
	c.Token.Secret = "" // The certificate is enough from now on.
	w.now = day.AddDate(0, 10, 0)
	if b := w.mustJoin(c, n1); !b.RenewAt.After(w.now) {
		t.Errorf("not renewed by certificate: %s", b.RenewAt)
	}
	if code := w.rogue(c, n1, n2); code != CodeForbidden {
		t.Errorf("n1 asked for the certificates of n2: %q", code)
	}
}

// rogue sends a request for another node with the first one's certificate and
// password.
func (w *world) rogue(c *Client, as, want NodeInfo) Code {
	w.t.Helper()
	d, err := c.openDisk(as)
	if err != nil {
		w.t.Fatal(err)
	}
	if want, err = c.introduce(want); err != nil {
		w.t.Fatal(err)
	}
	call, err := c.verified(w.store.CertPEM(pki.ServerCA), 0, d.clientCertificate())
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = call.do(w.t.Context(), Request{Version: Version, Node: want})
	if ref, ok := errors.AsType[*RefusedError](err); ok {
		return ref.Code
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return ""
}

// TestExpiredYears switches a node off until its certificates have expired and
// its token is worth nothing any more.
func TestExpiredYears(t *testing.T) {
	w := newWorld(t)
	c := w.remote()
	w.mustJoin(c, n1)
	password := w.names.passwords["n1"]
	c.Token.Secret = "rotated long ago"
	w.now = day.AddDate(3, 0, 0)
	if _, err := w.store.Ensure(pki.Tree, pki.Facts{NodeName: "s1"}); err != nil {
		t.Fatal(err)
	}
	if code := w.rogue(c, n1, n2); code != CodeToken && code != CodeForbidden {
		t.Errorf("the expired n1 asked for n2: %q", code)
	}
	if b := w.mustJoin(c, n1); b.RenewAt.Before(w.now) {
		t.Error("not renewed")
	}

	w.now = w.now.AddDate(3, 0, 0)
	if _, err := w.store.Ensure(pki.Tree, pki.Facts{NodeName: "s1"}); err != nil {
		t.Fatal(err)
	}
	w.names.passwords["n1"] = "of the machine that has the name now"
	want := CodeName
	for range 2 {
		_, err := c.Join(t.Context(), n1)
		if ref, ok := errors.AsType[*RefusedError](err); !ok || ref.Code != want {
			t.Errorf("want %s: %v", want, err)
		}
		// Nor is a node let in that the cluster has forgotten: its token is
		// wrong, which is what a person can do something about.
		delete(w.names.passwords, "n1")
		want = CodeToken
	}
	w.names.passwords["n1"] = password
	c.Token = token.Token{CAHash: c.Token.CAHash}
	w.mustJoin(c, n1)
}

func TestRenamedNodeNeedsItsToken(t *testing.T) {
	w := newWorld(t)
	c := w.remote()
	w.mustJoin(c, n1)
	w.mustJoin(c, n2) // The same machine, by another name.
	if w.names.passwords["n1"] != w.names.passwords["n2"] || w.names.passwords["n2"] == "" {
		t.Errorf("passwords %v", w.names.passwords)
	}
}

func TestJoinedNodeNeedsNoAPI(t *testing.T) {
	w := newWorld(t)
	c := w.remote()
	w.mustJoin(c, n1)
	w.names.down = Refuse(CodeStarting, "the API is not there")
	w.now = day.AddDate(0, 10, 0)
	w.mustJoin(c, n1)
	inside := w.client()
	inside.Token.Secret = ""
	w.mustJoin(inside, NodeInfo{Name: "s1"})
}

func TestGuessing(t *testing.T) {
	w := newWorld(t)
	boot := &timed{now: w.clock}
	w.join.Bootstrap = boot
	ask := func(secret string) int {
		r := httptest.NewRequest(http.MethodPost, Path, strings.NewReader(`{"version":1,"node":{"name":"n1","password":"p"}}`))
		r.SetBasicAuth(token.UserNode, secret)
		rec := httptest.NewRecorder()
		w.join.ServeHTTP(rec, r)
		if (rec.Code == http.StatusTooManyRequests) != (rec.Header().Get("Retry-After") != "") {
			t.Errorf("%d with Retry-After %q", rec.Code, rec.Header().Get("Retry-After"))
		}
		return rec.Code
	}
	for range 200 { // Right ones cost nothing.
		if got := ask(w.token.Secret.Reveal()); got != http.StatusOK {
			t.Fatalf("right token: %d", got)
		}
	}
	got := map[int]int{}
	for range 200 {
		got[ask("zzzzzz.0123456789abcdef")]++
	}
	if got[http.StatusUnauthorized] != 30 || got[http.StatusTooManyRequests] != 170 || boot.calls != 30 {
		t.Errorf("answers %v, %d looked up in the cluster", got, boot.calls)
	}
	if code := ask(w.token.Secret.Reveal()); code != http.StatusTooManyRequests {
		t.Errorf("the right one after many wrong ones: %d", code)
	}
	w.now = w.now.Add(time.Minute)
	if code := ask(w.token.Secret.Reveal()); code != http.StatusOK {
		t.Errorf("a minute later: %d", code)
	}
}

func TestRotation(t *testing.T) {
	w := newWorld(t)
	w.mux.Handle(TokenPath, Rotation{w.join})
	server := w.join.Tokens.Token(token.Server)
	joined := w.remote()
	w.mustJoin(joined, n1)
	as := func(tok token.Token) *Client {
		return &Client{URL: joined.URL, Token: tok, Clock: w.clock, Logger: quiet}
	}
	for _, tt := range []struct {
		name string
		tok  token.Token
		code Code
	}{
		{"agent token", w.token, CodeForbidden},
		{"wrong token", token.Token{Secret: "x"}, CodeToken},
		{"nothing", token.Token{}, CodeToken},
	} {
		_, err := as(tt.tok).Rotate(t.Context(), "agent", "")
		if ref, ok := errors.AsType[*RefusedError](err); !ok || ref.Code != tt.code {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	fresh, err := as(server).Rotate(t.Context(), "agent", "")
	if err != nil || fresh.User != token.UserNode || fresh.Secret == w.token.Secret {
		t.Fatalf("%v, %v", fresh, err)
	}
	w.mustJoin(joined, n1)
	late := w.remote()
	if _, err := late.Join(t.Context(), n2); err == nil {
		t.Error("the old token lets nodes join")
	}
	late.Token = fresh
	w.mustJoin(late, n2)
	if _, err = as(server).Rotate(t.Context(), "server", "short"); CodeOf(err) != CodeInternal || err == nil {
		t.Errorf("a short secret: %v", err)
	}
	if _, err = as(server).Rotate(t.Context(), "server", "long-enough-by-far"); err != nil {
		t.Error(err)
	}
	if _, err = as(server).Rotate(t.Context(), "server", ""); err == nil {
		t.Error("the old server token is good still")
	}
}

func TestNodeOfRequest(t *testing.T) {
	w := newWorld(t)
	b := w.mustJoin(w.client(), n1)
	peer := func(name string) *http.Request {
		pair, err := tls.LoadX509KeyPair(b.Cert(name), b.Key(name))
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{pair.Leaf}}
		return r
	}
	if node, err := w.join.Node(peer(pki.ClientKubelet)); err != nil || node != "n1" {
		t.Errorf("kubelet: %q, %v", node, err)
	}
	for _, name := range []string{pki.ClientSkiffAgent, pki.ClientKubeProxy, pki.ServingKubelet} {
		if node, err := w.join.Node(peer(name)); err == nil {
			t.Errorf("%s: %q", name, node)
		}
	}
	late := peer(pki.ClientKubelet)
	w.now = day.AddDate(3, 0, 0)
	if node, err := w.join.Node(late); err == nil {
		t.Errorf("expired: %q", node)
	}
}

func TestPasswordFile(t *testing.T) {
	w := newWorld(t)
	c := w.remote()
	w.mustJoin(c, n1)
	info, err := os.Stat(c.PasswordFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	first := w.names.passwords["n1"]
	if len(first) < 32 {
		t.Errorf("password of %d letters", len(first))
	}
	w.mustJoin(w.at(c), n1) // Its data directory is gone, /etc is not.
	if err := os.Remove(c.PasswordFile); err != nil {
		t.Fatal(err)
	}
	_, err = w.at(c).Join(t.Context(), n1)
	if ref, ok := errors.AsType[*RefusedError](err); !ok || ref.Code != CodeName {
		t.Errorf("re-installed: %v", err)
	}
}

// at is the machine of c with an empty data directory.
func (w *world) at(c *Client) *Client {
	fresh := w.client()
	fresh.Transport, fresh.URL, fresh.PasswordFile = nil, c.URL, c.PasswordFile
	return fresh
}

// TestServerTellsLittle sends what the server's log may have and an answer may
// not.
func TestServerTellsLittle(t *testing.T) {
	w := newWorld(t)
	var log strings.Builder
	w.join.Logger = slog.New(slog.NewTextHandler(&log, nil))
	w.names.down = errors.New("etcd at 10.0.0.1 says TOPSECRET")
	body, err := json.Marshal(Request{Version: Version, Node: NodeInfo{Name: "n1", Password: "p4ssw0rd"}})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, Path, strings.NewReader(string(body)))
	r.SetBasicAuth(token.UserNode, w.token.Secret.Reveal())
	rec := httptest.NewRecorder()
	w.join.ServeHTTP(rec, r)
	if rec.Code != http.StatusInternalServerError || strings.Contains(rec.Body.String(), "TOPSECRET") || !strings.Contains(log.String(), "TOPSECRET") {
		t.Errorf("%d %s\n%s", rec.Code, rec.Body, &log)
	}
	if strings.Contains(log.String(), "p4ssw0rd") || strings.Contains(log.String(), w.token.Secret.Reveal()) {
		t.Error("the log has a secret")
	}
}
