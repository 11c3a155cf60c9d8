package front

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"skiff/pkg/join"
)

// Handle adds a route to the supervisor's mux that looks after itself, with
// http.ServeMux's patterns; Add is for those that do not. It panics on a pattern that is taken, as http.ServeMux does; routes are part
// of the program.
func (f *Front) Handle(pattern string, h http.Handler) { f.mux.Handle(pattern, h) }

// SetAPI hands all other requests to h from now on; nil takes it back.
func (f *Front) SetAPI(h http.Handler) {
	if h == nil {
		f.api.Store(nil)
		return
	}
	f.api.Store(&h)
}

// Handler is the supervisor's mux without the network, for join.InProcess. The
// API is not behind it.
func (f *Front) Handler() http.Handler { return f.mux }

// routes answers below the supervisor's prefix, so that a path that is not
// there is not the API's to judge.
func (f *Front) routes() {
	f.mux.HandleFunc(join.Prefix, func(w http.ResponseWriter, r *http.Request) {
		f.text(w, http.StatusNotFound, fmt.Sprintf("skiff has nothing at %.200s\n", r.URL.Path))
	})
}

func (f *Front) text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if _, err := w.Write([]byte(body)); err != nil {
		f.opts.Logger.Debug("answer was not delivered", "error", err)
	}
}

// ServeHTTP sorts requests. The mux is asked first whether it has a route:
// were the API a route of it, the mux would redirect paths with "//" in them,
// which are the API's to judge (they occur below …/proxy/).
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if outlived(r, time.Now()) {
		w.Header().Set("Connection", "close") // also in HTTP/2, where it becomes a GOAWAY
	}
	if _, pattern := f.mux.Handler(r); pattern != "" {
		f.mux.ServeHTTP(w, r)
		return
	}
	api := f.api.Load()
	if api == nil {
		f.unavailable(w)
		return
	}
	if isWatch(r) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(f.stopping, cancel)()
		r = r.WithContext(ctx)
	}
	(*api).ServeHTTP(w, r)
}

// isWatch tells requests that last until somebody ends them and lose nothing
// by that: the client goes on from where it was.
func isWatch(r *http.Request) bool {
	if r.Method != http.MethodGet || !strings.Contains(r.URL.RawQuery, "watch=") {
		return false
	}
	v := r.URL.Query().Get("watch")
	return v == "true" || v == "1"
}

// unavailable answers in the form of the Kubernetes API, so that kubectl shows
// the sentence and clients try again by themselves.
func (f *Front) unavailable(w http.ResponseWriter) {
	const sentence = "the Kubernetes API of this server is starting; `skiff status` says what it is waiting for"
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusServiceUnavailable)
	err := json.NewEncoder(w).Encode(map[string]any{
		"kind": "Status", "apiVersion": "v1", "metadata": map[string]any{},
		"status": "Failure", "reason": "ServiceUnavailable", "code": http.StatusServiceUnavailable,
		"message": sentence, "details": map[string]any{"retryAfterSeconds": 1},
	})
	if err != nil {
		f.opts.Logger.Debug("answer was not delivered", "error", err)
	}
}

// Settings of HTTP, in step with upstream's k8s.io/apiserver
// pkg/server/secure_serving.go: most API objects fit in one frame, and a
// connection has buffer for all of its streams.
const (
	frameSize  = 256 << 10
	maxStreams = 100
)

// server returns the HTTP server. Client certificates are asked for and not
// verified: the API's authenticators do that, and join does it for itself. No
// authorities are named in the request, since a client shows only a
// certificate of those that are, and the API may accept others.
func (f *Front) server(base context.Context) *http.Server {
	return &http.Server{
		Handler: f,
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS12,
			NextProtos:     []string{"h2", "http/1.1"},
			ClientAuth:     tls.RequestClientCert,
			GetCertificate: f.opts.Certificate,
		},
		BaseContext:       func(net.Listener) context.Context { return base },
		MaxHeaderBytes:    1 << 20,
		ReadHeaderTimeout: 32 * time.Second,
		IdleTimeout:       90 * time.Second,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              frameSize,
			MaxReceiveBufferPerStream:     frameSize,
			MaxReceiveBufferPerConnection: frameSize * maxStreams,
		},
		ErrorLog: log.New(errorLog{f.opts.Logger}, "", 0),
	}
}

// errorLog sorts net/http's complaints: a failed handshake is a port scan or a
// client with an old authority, and on an open port there are thousands.
type errorLog struct{ logger *slog.Logger }

func (e errorLog) Write(p []byte) (int, error) {
	text := strings.TrimSpace(string(p))
	level := slog.LevelWarn
	if strings.Contains(text, "TLS handshake error") {
		level = slog.LevelDebug
	}
	if strings.Contains(text, "panic serving") {
		level = slog.LevelError
	}
	e.logger.Log(context.Background(), level, "http server complains", "text", text)
	return len(p), nil
}
