package join

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"skiff/pkg/pki"
	"skiff/pkg/token"
)

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"version":1,"node":{"name":"n1","addresses":["10.0.0.5"]},"csrs":{"client-kubelet":"x"}}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := parseRequest(body)
		if err != nil {
			return
		}
		if req.Version != Version || !nodeName.MatchString(req.Node.Name) {
			t.Errorf("accepted %+v", req)
		}
		for name, text := range req.CSRs {
			if specOf(name) == nil {
				t.Errorf("accepted %q", name)
			}
			if csr, key, err := pki.ParseCSR([]byte(text)); err == nil && (csr == nil || key == nil) {
				t.Error("parsed nothing without an error")
			}
		}
	})
}

// FuzzHandlers sends whole requests, with the right token so that all of them
// are looked at: nothing but a well-formed request for itself gets
// certificates, and only for its own name.
func FuzzHandlers(f *testing.F) {
	store := pki.NewStore(filepath.Join(f.TempDir(), "server"), nil, quiet)
	if _, err := store.Ensure(pki.Tree, pki.Facts{NodeName: "s1"}); err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	files := token.Files{Server: filepath.Join(dir, "token"), Agent: filepath.Join(dir, "agent-token"), Node: filepath.Join(dir, "node-token")}
	book, _, err := token.Open(files, store.CertPEM(pki.ServerCA), token.Token{}, token.Token{})
	if err != nil {
		f.Fatal(err)
	}
	key, _, err := pki.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	csr, err := pki.NewCSR(pki.NodeTree[0], pki.Facts{NodeName: "n1"}, key)
	if err != nil {
		f.Fatal(err)
	}
	good, err := json.Marshal(Request{Version: Version, Node: NodeInfo{Name: "n1", Password: "p"}, CSRs: map[string]string{pki.ClientKubelet: string(csr)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(http.MethodPost, Path, "192.0.2.1:1", "agent", good)
	f.Add(http.MethodGet, Path, "[2001:db8::1%eth0]:1", "", []byte(nil))
	f.Add(http.MethodPost, TokenPath, "x", "server", []byte(`{"version":1,"kind":"agent","new":"a-long-enough-secret"}`))
	f.Add(http.MethodPost, Path, "", "abcdef.0123456789abcdef", []byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, method, path, remote, secret string, body []byte) {
		s := NewServer(Server{
			Store: store, Tokens: book, Names: &names{passwords: map[string]token.Secret{}}, Cluster: func() Cluster { return cluster },
			Own: "s1", Reserved: func() []netip.Prefix { return nil }, Version: "v1.36.3", Logger: quiet,
		})
		var h http.Handler = s
		if path == TokenPath {
			h = Rotation{s}
		}
		r := httptest.NewRequest(http.MethodPost, Path, bytes.NewReader(body))
		r.Method, r.RemoteAddr = method, remote
		// Tokens are random, and rotated by requests that succeed.
		switch secret {
		case "agent":
			secret = book.Token(token.Agent).Secret.Reveal()
		case "server":
			secret = book.Token(token.Server).Secret.Reveal()
		}
		r.SetBasicAuth(token.UserNode, secret)
		kind := book.Kind(secret)
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		if rec.Code != http.StatusOK {
			var why Refusal
			if err := json.Unmarshal(rec.Body.Bytes(), &why); err != nil || why.Code == "" || why.Code.Status() != rec.Code {
				t.Errorf("%d %s", rec.Code, rec.Body)
			}
			return
		}
		if kind == token.Unknown || path == TokenPath && kind != token.Server {
			t.Fatalf("%s answers to a %s: %s", path, kind, rec.Body)
		}
		var req Request
		var resp Response
		if path == TokenPath || json.Unmarshal(body, &req) != nil || json.Unmarshal(rec.Body.Bytes(), &resp) != nil {
			return
		}
		for name, text := range resp.Certificates {
			certs, err := pki.ParseCerts([]byte(text))
			if err != nil || certs[0].Subject.CommonName != strings.ReplaceAll(specOf(name).CN, "{node}", req.Node.Name) || req.Node.Name == "s1" {
				t.Errorf("%s of %q: %v", name, req.Node.Name, err)
			}
		}
	})
}
