package front

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestConnectionsEndWithTheirCertificate(t *testing.T) {
	f := New(Options{})
	f.SetAPI(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for _, tt := range []struct {
		name string
		tls  *tls.ConnectionState
		want string
	}{
		{"a token", &tls.ConnectionState{}, ""},
		{"a certificate", state(time.Hour), ""},
		{"one that is nearly over", state(5 * time.Second), "close"},
		{"one that is over", state(-time.Hour), "close"},
	} {
		r, w := httptest.NewRequest(http.MethodGet, "/api", nil), httptest.NewRecorder()
		r.TLS = tt.tls
		f.ServeHTTP(w, r)
		if got := w.Header().Get("Connection"); got != tt.want {
			t.Errorf("%s: Connection: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func state(left time.Duration) *tls.ConnectionState {
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{NotAfter: time.Now().Add(left)}}}
}
