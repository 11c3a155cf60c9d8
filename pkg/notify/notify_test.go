package notify

import (
	"net"
	"path/filepath"
	"testing"
	"time"
)

func TestNotifier(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify.sock")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n := Notifier(path)
	tests := []struct {
		name string
		send func() error
		want string
	}{
		{"ready", func() error { return n.Ready("node a") }, "READY=1\nSTATUS=node a"},
		{"stopping", func() error { return n.Stopping("why\nnot") }, "STOPPING=1\nSTATUS=why not"},
		{"status", func() error { return n.Status("waiting") }, "STATUS=waiting"},
	}
	for _, tt := range tests {
		if err := tt.send(); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if err := l.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 256)
		got, err := l.Read(buf)
		if err != nil || string(buf[:got]) != tt.want {
			t.Errorf("%s: received %q, %v, want %q", tt.name, buf[:got], err, tt.want)
		}
	}
}

func TestNoManager(t *testing.T) {
	if err := Notifier("").Ready("x"); err != nil {
		t.Errorf("empty Notifier: %v", err)
	}
	if err := Notifier(filepath.Join(t.TempDir(), "missing")).Ready("x"); err == nil {
		t.Error("a socket that is not there is no error")
	}
}
