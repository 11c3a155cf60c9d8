package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// serveMetrics answers where kube-proxy's own metrics server would, until stop is
// called: /metrics, /proxyMode and /healthz.
//
// Source: k8s.io/kubernetes, cmd/kube-proxy/app/server.go, serveMetrics.
func (p *Proxy) serveMetrics(ctx context.Context, address string) (stop func(), err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for kube-proxy's metrics (--kube-proxy-arg metrics-bind-address=ADDRESS:PORT chooses another place): %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", p.Metrics)
	mux.HandleFunc("/proxyMode", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "nftables") })
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "ok") })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			p.Logger.Warn("kube-proxy's metrics are not served any more", "error", err)
		}
	}()
	return func() {
		_ = server.Close()
		<-ended
	}, nil
}
