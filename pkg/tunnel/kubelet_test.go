package tunnel

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// kubelet is a server of HTTPS behind a peer, with HTTP/2 as the kubelet has.
type kubelet struct {
	*httptest.Server
	port string
}

func newKubelet(t testing.TB) *kubelet {
	t.Helper()
	k := &kubelet{Server: httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto)
	}))}
	k.EnableHTTP2 = true
	k.StartTLS()
	t.Cleanup(k.Close)
	_, k.port, _ = net.SplitHostPort(k.Listener.Addr().String())
	return k
}

// through returns a client that reaches it through a peer.
func (k *kubelet) through(s *Server, peer string) *http.Client {
	tr := k.Client().Transport.(*http.Transport).Clone()
	tr.ForceAttemptHTTP2 = true
	dial := Dialer{Through: s, Peer: peer}
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dial.DialContext(ctx, network, addr)
	}
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}
