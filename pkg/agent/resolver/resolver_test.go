package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type notes struct {
	mu   sync.Mutex
	text string
}

func (n *notes) Set(_, message string) { n.mu.Lock(); defer n.mu.Unlock(); n.text = message }
func (n *notes) Clear(string)          { n.Set("", "") }
func (n *notes) get() string           { n.mu.Lock(); defer n.mu.Unlock(); return n.text }

func TestChoose(t *testing.T) {
	tests := []struct {
		name          string
		files         []string // "-" is one that is not there
		want, problem string   // problem: a part of it
	}{
		{"as it is", []string{"# by dhcp\nnameserver 192.0.2.1\nsearch example.org\noptions ndots:1\n"}, "nameserver 192.0.2.1\nsearch example.org\noptions ndots:1\n", ""},
		{"less loopback", []string{"nameserver 127.0.0.1\nnameserver ::1\nnameserver 2001:db8::1\n"}, "nameserver 2001:db8::1\n", ""},
		{"systemd's stub", []string{"nameserver 127.0.0.53\noptions edns0\n", "nameserver 192.0.2.1\n"}, "nameserver 192.0.2.1\n", ""},
		{"stub only", []string{"nameserver 127.0.0.53\nsearch lan\n", "-"}, "search lan\n", "names only 127.0.0.53, which a pod cannot reach"},
		{"empty", []string{""}, "", "names no name server"},
		{"missing", []string{"-", "-"}, "", "there is no "},
		{"missing, but systemd's", []string{"-", "nameserver 192.0.2.1"}, "nameserver 192.0.2.1\n", ""},
		{"nonsense", []string{"nameserver\nnameserver local\nnameserver 0.0.0.0\n"}, "", "names only local and 0.0.0.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := &Keeper{}
			for i, text := range tt.files {
				file := filepath.Join(t.TempDir(), fmt.Sprint(i))
				k.Sources = append(k.Sources, file)
				if text == "-" {
					continue
				}
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, problem := k.choose()
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if (problem == "") != (tt.problem == "") || !strings.Contains(problem, tt.problem) {
				t.Errorf("problem = %q, want one with %q", problem, tt.problem)
			}
			if problem != "" && !strings.Contains(problem, "--resolv-conf") {
				t.Errorf("problem %q does not say the way out", problem)
			}
			if strings.Contains(got, "8.8.8.8") {
				t.Errorf("a public resolver in %q", got)
			}
		})
	}
}

// TestRun: the host gets its name server after the start.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	source, out, n := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "etc", "out"), &notes{}
	k := &Keeper{Sources: []string{source}, Out: out, Notes: n, Logger: slog.New(slog.DiscardHandler)}
	if k.Ready(t.Context()) == nil {
		t.Error("ready before it ran")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	until := func(what string, ok func() error) {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for ; ; <-time.After(10 * time.Millisecond) {
			if err := ok(); err == nil {
				return
			} else if time.Now().After(deadline) {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	holds := func(text string) func() error {
		return func() error {
			got, err := os.ReadFile(out)
			if err == nil && string(got) != text {
				err = fmt.Errorf("%s holds %q", out, got)
			}
			return err
		}
	}
	until("empty file", func() error { return errors.Join(holds("")(), k.Ready(ctx)) })
	if !strings.Contains(n.get(), "there is no "+source) {
		t.Errorf("note = %q", n.get())
	}
	if err := os.WriteFile(source, []byte("nameserver 192.0.2.7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	until("the server of the host", holds("nameserver 192.0.2.7\n"))
	until("end of the note", func() error {
		if n.get() != "" {
			return errors.New(n.get())
		}
		return nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
