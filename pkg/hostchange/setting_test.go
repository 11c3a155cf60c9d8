package hostchange

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/process"
)

// TestSettings takes back what other programs were told.
func TestSettings(t *testing.T) {
	stopped := errors.New("FirewallD is not running")
	tests := map[string]struct {
		change Change
		fails  map[string]error
		want   []string
	}{
		"a port in ufw": {change: Change{Kind: UFW, Value: "allow 6443/tcp"}, want: []string{"ufw delete allow 6443/tcp"}},
		"a route in ufw": {
			change: Change{Kind: UFW, Value: "route allow from 10.42.0.0/16"},
			want:   []string{"ufw route delete allow from 10.42.0.0/16"},
		},
		"ufw has gone": {
			change: Change{Kind: UFW, Value: "allow 6443/tcp"}, fails: map[string]error{"ufw": process.ErrNotFound},
			want: []string{"ufw delete allow 6443/tcp"},
		},
		"firewalld": {
			change: Change{Kind: Firewalld, Value: "--zone=trusted --add-source=10.42.0.0/16"},
			want: []string{
				"firewall-cmd --state", "firewall-cmd --zone=trusted --remove-source=10.42.0.0/16",
				"firewall-cmd --permanent --zone=trusted --remove-source=10.42.0.0/16",
			},
		},
		"firewalld is stopped": {
			change: Change{Kind: Firewalld, Value: "--zone=public --add-port=6443/tcp"}, fails: map[string]error{"firewall-cmd": stopped},
			want: []string{"firewall-cmd --state", "firewall-offline-cmd --zone=public --remove-port=6443/tcp"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			u := &Undo{Run: func(_ context.Context, name string, args ...string) (string, error) {
				got = append(got, name+" "+strings.Join(args, " "))
				return "", tt.fails[name]
			}}
			if err := u.one(t.Context(), tt.change); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	refused := errors.New("refused")
	u := &Undo{Run: func(context.Context, string, ...string) (string, error) { return "", refused }}
	if err := u.one(t.Context(), Change{Kind: UFW, Value: "allow 6443/tcp"}); !errors.Is(err, refused) {
		t.Errorf("ufw refuses: %v", err)
	}
}

// TestReplaced puts a file back, but not over what somebody wrote since.
func TestReplaced(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cmdline.txt")
	backup := file + ".before-skiff"
	change := Change{Kind: Replaced, Value: file, Before: Replacement(backup, []byte("new"))}
	var left []string
	u := &Undo{Left: func(what string) { left = append(left, what) }}
	for name, tt := range map[string]struct{ now, want string }{
		"as skiff left it": {now: "new", want: "old"},
		"changed since":    {now: "a person's", want: "a person's"},
	} {
		write(t, file, tt.now)
		write(t, backup, "old")
		left = nil
		for range 2 { // a second time changes nothing
			if err := u.one(t.Context(), change); err != nil {
				t.Fatal(err)
			}
			if got := read(t, file); got != tt.want {
				t.Errorf("%s: the file has %q, want %q", name, got, tt.want)
			}
		}
		if (len(left) > 0) != (tt.now == tt.want) {
			t.Errorf("%s: left %q", name, left)
		}
	}
}
