package bootstrap

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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

func tok(text string) token.Token { return token.Token{Secret: token.Secret(text)} }

// cluster is a fake that does with StringData what the API server does.
func cluster() *fake.Clientset {
	client := fake.NewClientset()
	client.PrependReactor("create", "secrets", func(a k8stesting.Action) (bool, runtime.Object, error) {
		s := a.(k8stesting.CreateAction).GetObject().(*corev1.Secret)
		s.Data = map[string][]byte{}
		for k, v := range s.StringData {
			s.Data[k] = []byte(v)
		}
		s.StringData = nil
		return false, nil, nil
	})
	return client
}

func TestLifeOfATokens(t *testing.T) {
	client := cluster()
	v := &Verifier{Client: func() kubernetes.Interface { return client }, Now: func() time.Time { return day }}
	want := []Options{
		{Token: tok("aaaaaa.0123456789abcdef"), Expires: day.Add(-time.Second), Usages: []string{"authentication"}},
		{Token: tok("bbbbbb.0123456789abcdef"), Expires: day.Add(time.Hour), Usages: []string{"authentication", "signing"}, Description: "shop", Groups: []string{DefaultGroup}},
		{Token: tok("cccccc.0123456789abcdef"), Expires: day.Add(2 * time.Hour), Usages: []string{"signing"}},
		{Token: tok("dddddd.0123456789abcdef"), Usages: []string{"authentication"}},
	}
	for _, o := range want {
		if err := Create(t.Context(), client, o); err != nil {
			t.Fatal(err)
		}
	}
	if err := Create(t.Context(), client, want[1]); err == nil {
		t.Error("two tokens with one id")
	}
	got, err := List(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for text, good := range map[string]bool{
		"aaaaaa.0123456789abcdef": false, "bbbbbb.0123456789abcdef": true, "cccccc.0123456789abcdef": false,
		"dddddd.0123456789abcdef": true, "bbbbbb.0123456789abcdee": false, "eeeeee.0123456789abcdef": false,
	} {
		err := v.Verify(t.Context(), tok(text))
		if good != (err == nil) || (err != nil && join.CodeOf(err) != join.CodeBootstrap) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if had, err := Delete(t.Context(), client, "bbbbbb"); !had || err != nil {
		t.Errorf("delete: %v, %v", had, err)
	}
	if had, err := Delete(t.Context(), client, "bbbbbb"); had || err != nil {
		t.Errorf("delete again: %v, %v", had, err)
	}
	if err := v.Verify(t.Context(), tok("bbbbbb.0123456789abcdef")); join.CodeOf(err) != join.CodeBootstrap {
		t.Errorf("deleted: %v", err)
	}
}

func TestCheck(t *testing.T) {
	good := Options{Token: tok("aaaaaa.0123456789abcdef"), Usages: []string{"authentication"}, Groups: []string{"system:bootstrappers:shop-1"}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Options){
		"token":    func(o *Options) { o.Token = tok("short") },
		"group":    func(o *Options) { o.Groups = []string{"system:masters"} },
		"usage":    func(o *Options) { o.Usages = []string{"everything"} },
		"no usage": func(o *Options) { o.Usages = nil },
	} {
		bad := good
		change(&bad)
		if err := bad.Check(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestForeignSecrets(t *testing.T) {
	secret := func(name string, kind corev1.SecretType, data map[string]string) *corev1.Secret {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "kube-system"}, Type: kind, Data: map[string][]byte{}}
		for k, v := range data {
			s.Data[k] = []byte(v)
		}
		return s
	}
	full := map[string]string{keyID: "aaaaaa", keySecret: "0123456789abcdef", "usage-bootstrap-authentication": "true"}
	for name, s := range map[string]*corev1.Secret{
		"type":       secret("bootstrap-token-aaaaaa", corev1.SecretTypeOpaque, full),
		"other id":   secret("bootstrap-token-aaaaaa", SecretType, map[string]string{keyID: "bbbbbb", keySecret: "0123456789abcdef", "usage-bootstrap-authentication": "true"}),
		"expiration": secret("bootstrap-token-aaaaaa", SecretType, map[string]string{keyID: "aaaaaa", keySecret: "0123456789abcdef", "usage-bootstrap-authentication": "true", keyExpires: "tomorrow"}),
	} {
		client := fake.NewClientset(s)
		v := &Verifier{Client: func() kubernetes.Interface { return client }, Now: time.Now}
		if err := v.Verify(context.Background(), tok("aaaaaa.0123456789abcdef")); join.CodeOf(err) != join.CodeBootstrap {
			t.Errorf("%s: %v", name, err)
		}
	}
	client := fake.NewClientset()
	client.PrependReactor("get", "secrets", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("down") })
	for _, c := range []func() kubernetes.Interface{func() kubernetes.Interface { return client }, func() kubernetes.Interface { return nil }} {
		if err := (&Verifier{Client: c, Now: time.Now}).Verify(context.Background(), tok("aaaaaa.0123456789abcdef")); join.CodeOf(err) != join.CodeStarting {
			t.Errorf("API down: %v", err)
		}
	}
}
