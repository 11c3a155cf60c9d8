package images

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// Guard is a registry that wants to know who asks, and keeps a list of what it
// was asked for.
type Guard struct {
	Registry       http.Handler
	User, Password string // "" lets everybody in
	// Realm makes clients fetch a token there, with user and password, instead
	// of sending these along; the same Guard gives it out at the path /token.
	Realm string
	// Prefix is what the names of repositories begin with here.
	Prefix string

	mu    sync.Mutex
	asked []string
}

// token is as good as any: it is not the test of tokens.
const token = "let-me-in"

// ServeHTTP implements http.Handler.
func (g *Guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.asked = append(g.asked, r.URL.Path)
	g.mu.Unlock()
	if r.URL.Path == "/token" && g.Realm != "" {
		if !g.known(r) {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"token": token})
		return
	}
	switch {
	case g.Realm != "" && r.Header.Get("Authorization") != "Bearer "+token:
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="registry"`, g.Realm))
		http.Error(w, "a token, please", http.StatusUnauthorized)
		return
	case g.Realm == "" && !g.known(r):
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	if rest, ok := strings.CutPrefix(r.URL.Path, "/v2/"+g.Prefix); ok {
		r.URL.Path = "/v2/" + rest
	} else if strings.Trim(r.URL.Path, "/") != "v2" {
		http.NotFound(w, r)
		return
	}
	g.Registry.ServeHTTP(w, r)
}

func (g *Guard) known(r *http.Request) bool {
	if g.User == "" {
		return true
	}
	user, password, _ := r.BasicAuth()
	return user == g.User && subtle.ConstantTimeCompare([]byte(password), []byte(g.Password)) == 1
}

// Asked returns the paths that were asked for since the last call.
func (g *Guard) Asked() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := g.asked
	g.asked = nil
	return out
}
