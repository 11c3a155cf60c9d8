package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestRootShared(t *testing.T) {
	const other = "22 27 0:21 / /proc rw,relatime shared:9 - proc proc rw\n"
	tests := []struct {
		name, mountinfo string
		want            bool
	}{
		{"private", other + "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n", false},
		{"shared", other + "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n", true},
		{"slave and shared", "27 1 254:0 / / rw,relatime shared:1 master:3 - ext4 /dev/vda rw\n", true},
		{"slave", "27 1 254:0 / / rw,relatime master:3 - ext4 /dev/vda rw\n", false},
		{"the later mount counts", "1 1 0:2 / / rw shared:1 - rootfs rootfs rw\n27 1 254:0 / / rw - ext4 /dev/vda rw\n", false},
		{"word in the options", "27 1 254:0 / / rw - ext4 /dev/vda rw shared:1\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := rootShared(tt.mountinfo); got != tt.want {
				t.Errorf("rootShared = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestHasSysResource(t *testing.T) {
	for text, want := range map[string]bool{
		"Name:\tx\nCapEff:\t000001ffffffffff\n": true,
		"Name:\tx\nCapEff:\t000001fffeffffff\n": false,
		"CapEff:\tnonsense\n":                   false,
		"":                                      false,
	} {
		file := filepath.Join(t.TempDir(), "status")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := hasSysResource(file); got != want {
			t.Errorf("hasSysResource(%q) = %v, want %v", text, got, want)
		}
	}
}

func TestMakeUsers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "etc", "passwd")
	if err := makeUsers(file, nil); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(text), "root:x:0:0:") {
		t.Errorf("the file made: %q, %v", text, err)
	}
	const theirs = "somebody:x:1000:1000::/:/bin/sh\n"
	if err := os.WriteFile(file, []byte(theirs), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := makeUsers(file, nil); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != theirs {
		t.Errorf("a file that was there: %q, %v", text, err)
	}
}

func TestImageTag(t *testing.T) {
	if got, want := imageTag("v1.36.3+skiff1"), "v1.36.3-skiff1"; got != want {
		t.Errorf("imageTag = %s, want %s", got, want)
	}
}

func TestNodeReady(t *testing.T) {
	start := time.Date(2026, 11, 21, 1, 2, 3, 500, time.UTC)
	node := func(status corev1.ConditionStatus, at time.Time, taints ...string) *corev1.Node {
		n := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: status, Message: "why", LastHeartbeatTime: metav1.NewTime(at),
		}}}}
		for _, k := range taints {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: k})
		}
		return n
	}
	tests := []struct {
		name string
		node *corev1.Node
		want bool
	}{
		{"not registered", nil, false},
		{"no condition", &corev1.Node{}, false},
		{"ready", node(corev1.ConditionTrue, start.Truncate(time.Second)), true},
		{"ready before the start", node(corev1.ConditionTrue, start.Add(-2*time.Second)), false},
		{"not ready", node(corev1.ConditionFalse, start.Add(time.Second)), false},
		{"uninitialized", node(corev1.ConditionTrue, start.Add(time.Second), uninitialized), false},
		{"user's taint", node(corev1.ConditionTrue, start.Add(time.Second), "dedicated"), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &nodeWatch{name: "n1", start: start}
			if tt.node != nil {
				w.set(tt.node)
			}
			if err := w.Ready(t.Context()); (err == nil) != tt.want {
				t.Errorf("Ready = %v, want ready: %v", err, tt.want)
			}
		})
	}
}
