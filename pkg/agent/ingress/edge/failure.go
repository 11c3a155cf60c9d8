package edge

import (
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// answer ends the request here.
func (x *exchange) answer(w http.ResponseWriter, r *http.Request, status int) {
	x.status = status
	maps.Copy(w.Header(), x.cors)
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") && status >= 400 {
		// A gRPC client wants to be told in its own way (gRPC over HTTP/2, status mapping).
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", grpcStatus(status))
		w.Header().Set("Grpc-Message", http.StatusText(status))
		w.WriteHeader(http.StatusOK)
		return
	}
	if w.Header().Get("Location") != "" || r.Method == http.MethodHead || status == http.StatusNoContent {
		w.WriteHeader(status)
		return
	}
	text := strconv.Itoa(status) + " " + http.StatusText(status) + "\n"
	h := w.Header()
	h["Content-Type"] = []string{"text/plain; charset=utf-8"}
	h["Content-Length"] = []string{strconv.Itoa(len(text))}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

func grpcStatus(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "16"
	case http.StatusForbidden:
		return "7"
	case http.StatusNotFound:
		return "12"
	case http.StatusGatewayTimeout:
		return "4"
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable:
		return "14"
	}
	return "2"
}

// fail answers a request that could not be sent on.
func (x *exchange) fail(w http.ResponseWriter, r *http.Request, err error) {
	var large *http.MaxBytesError
	var body *bodyError
	cause := x.stopped()
	status := http.StatusBadGateway
	switch {
	case errors.Is(cause, errClientGone):
		x.status = 499
		return
	case errors.As(err, &large):
		status = http.StatusRequestEntityTooLarge
	case errors.As(err, &body):
		status = http.StatusBadRequest
	case errors.Is(cause, errTimeout), errors.Is(cause, errTryTimeout), isTimeout(err):
		status = http.StatusGatewayTimeout
	case errors.Is(err, errNoEndpoint):
		status = http.StatusServiceUnavailable
	}
	x.s.o.Logger.Debug("request failed", "route", x.route.name, "status", status, "error", err)
	x.edit(w.Header())
	x.answer(w, r, status)
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// interim sends a 1xx answer on; net/http sends 100 itself when the body is read.
func (x *exchange) interim(resp *http.Response) {
	if x.w == nil || resp.StatusCode == http.StatusContinue {
		return
	}
	h := x.w.Header()
	maps.Copy(h, resp.Header)
	for _, name := range hopByHop {
		delete(h, name)
	}
	x.w.WriteHeader(resp.StatusCode)
	clear(h)
}
