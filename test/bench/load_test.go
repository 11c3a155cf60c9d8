package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestLoad(t *testing.T) {
	status := http.StatusOK
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "hello")
	}))
	defer s.Close()
	l := &traffic{dial: (&net.Dialer{}).DialContext, address: s.Listener.Addr().String(), host: "x", conns: 3}
	got, err := l.run(50 * time.Millisecond)
	if err != nil || got.requests < 3 || got.requests != len(got.times) || got.p99() <= 0 || got.perSecond() <= 0 {
		t.Errorf("run: %+v, %v", got, err)
	}
	status = http.StatusBadGateway
	if _, err := l.run(50 * time.Millisecond); err == nil {
		t.Error("a 502 is taken for an answer")
	}
}
