package password

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"skiff/pkg/join"
	"skiff/pkg/token"
)

var day = time.Date(2027, time.March, 1, 12, 0, 0, 0, time.UTC)

func keeper(objects ...runtime.Object) (*Keeper, *fake.Clientset) {
	client := fake.NewClientset(objects...)
	return New(func() kubernetes.Interface { return client }, func() time.Time { return day }, slog.New(slog.DiscardHandler)), client
}

func node(ready corev1.ConditionStatus, since time.Duration) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: ready, LastTransitionTime: metav1.NewTime(day.Add(-since))},
	}}}
}

func claim(node, password, machine string) join.Claim {
	return join.Claim{Node: node, Password: token.Secret(password), Machine: machine, New: true}
}

func TestHash(t *testing.T) {
	text, err := hash("secret")
	if err != nil || strings.Contains(text, "secret") {
		t.Fatal(text, err)
	}
	again, err := hash("secret")
	if err != nil || again == text {
		t.Errorf("no salt: %s, %v", again, err)
	}
	for p, want := range map[token.Secret]bool{"secret": true, "Secret": false, "": false} {
		if got, err := matches(text, p); got != want || err != nil {
			t.Errorf("%q: %v, %v", p.Reveal(), got, err)
		}
	}
	for _, damaged := range []string{"", "secret", text[:len(text)-3], strings.Replace(text, "100000", "x", 1), strings.Replace(text, "100000", "99999999999", 1), strings.Replace(text, "pbkdf2", "md5", 1)} {
		if ok, err := matches(damaged, "secret"); ok || !errors.Is(err, errHash) {
			t.Errorf("%q: %v, %v", damaged, ok, err)
		}
	}
}

func TestClaim(t *testing.T) {
	old := claim("n1", "old", "uuid-1")
	tests := []struct {
		name  string
		nodes []runtime.Object
		claim join.Claim
		want  join.Code // "" if it has the name afterwards
	}{
		{"the same again", nil, old, ""},
		{"another name", nil, claim("n2", "other", ""), ""},
		{"another machine", []runtime.Object{node(corev1.ConditionUnknown, 24*time.Hour)}, claim("n1", "new", "uuid-2"), join.CodeName},
		{"a machine that does not say", []runtime.Object{node(corev1.ConditionUnknown, 24*time.Hour)}, claim("n1", "new", ""), join.CodeName},
		{"re-installed, seen just now", []runtime.Object{node(corev1.ConditionTrue, time.Hour)}, claim("n1", "new", "uuid-1"), join.CodeName},
		{"re-installed, away for a minute", []runtime.Object{node(corev1.ConditionUnknown, time.Minute)}, claim("n1", "new", "uuid-1"), join.CodeName},
		{"re-installed, away for long", []runtime.Object{node(corev1.ConditionUnknown, 6*time.Minute)}, claim("n1", "new", "uuid-1"), ""},
		{"re-installed, node deleted", nil, claim("n1", "new", "uuid-1"), ""},
		{"re-installed, without token", nil, join.Claim{Node: "n1", Password: "new", Machine: "uuid-1"}, join.CodeName},
		{"expired certificate", nil, join.Claim{Node: "n1", Password: "old"}, ""},
		{"expired certificate of a forgotten node", nil, join.Claim{Node: "n3", Password: "old"}, join.CodeUnknown},
		{"valid certificate of a forgotten node", nil, join.Claim{Node: "n3", Password: "mine", Proven: true}, ""},
		{"valid certificate", nil, join.Claim{Node: "n1", Password: "whatever", Proven: true}, "kept"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, client := keeper(tt.nodes...)
			if err := k.Claim(t.Context(), old); err != nil {
				t.Fatal(err)
			}
			err := k.Claim(t.Context(), tt.claim)
			if tt.want != "" && tt.want != "kept" {
				if join.CodeOf(err) != tt.want || err == nil {
					t.Errorf("want %s: %v", tt.want, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			s, err := client.CoreV1().Secrets("kube-system").Get(t.Context(), SecretName(tt.claim.Node), metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if s.Type != SecretType || s.Immutable == nil || !*s.Immutable {
				t.Errorf("secret %+v", s)
			}
			if ok, err := matches(string(s.Data[keyHash]), tt.claim.Password); ok == (tt.want == "kept") || err != nil {
				t.Errorf("hash of this password: %v, %v", ok, err)
			}
		})
	}
}

func TestRefusalSaysWhatToDo(t *testing.T) {
	k, _ := keeper(node(corev1.ConditionUnknown, time.Minute))
	if err := k.Claim(t.Context(), claim("n1", "old", "uuid-1")); err != nil {
		t.Fatal(err)
	}
	err := k.Claim(t.Context(), claim("n1", "new", "uuid-1"))
	for _, want := range []string{"skiff node forget n1", "--node-name", "--with-node-id", "in about 4m0s"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
	if err != nil && (strings.Contains(err.Error(), "old") || strings.Contains(err.Error(), "new ")) {
		t.Error("the error has a password")
	}
}

func TestAPINotThere(t *testing.T) {
	k, client := keeper()
	client.PrependReactor("get", "secrets", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("connection refused")
	})
	if err := k.Claim(t.Context(), claim("n1", "p", "")); join.CodeOf(err) != join.CodeStarting {
		t.Errorf("API down: %v", err)
	}
	k.Client = func() kubernetes.Interface { return nil }
	if err := k.Claim(t.Context(), claim("n1", "p", "")); join.CodeOf(err) != join.CodeStarting {
		t.Errorf("API not built: %v", err)
	}
}

func TestForgetAndSweep(t *testing.T) {
	k, client := keeper(node(corev1.ConditionTrue, 0))
	has := func(node string) bool {
		_, err := client.CoreV1().Secrets("kube-system").Get(context.Background(), SecretName(node), metav1.GetOptions{})
		return err == nil
	}
	for _, name := range []string{"n1", "n2", "n3"} {
		if err := k.Claim(t.Context(), claim(name, "p", "")); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Gone(t.Context(), "n3"); err != nil || has("n3") {
		t.Errorf("n3 is remembered: %v", err)
	}
	if had, err := Forget(t.Context(), client, "n3"); had || err != nil {
		t.Errorf("forgotten twice: %v, %v", had, err)
	}
	// The fake client sets no creation time, which is a very old one; n2 is
	// young by a clock of its time.
	k.Now = func() time.Time { return time.Time{}.Add(time.Hour) }
	if err := k.Sweep(t.Context()); err != nil || !has("n1") || !has("n2") {
		t.Errorf("young ones are swept: %v, %v", !has("n2"), err)
	}
	k.Now = func() time.Time { return day }
	if err := k.Sweep(t.Context()); err != nil || !has("n1") || has("n2") {
		t.Errorf("n1 %v, n2 %v, %v", has("n1"), has("n2"), err)
	}
}
