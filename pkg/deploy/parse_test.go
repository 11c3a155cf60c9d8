package deploy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
		err        string
	}{
		{name: "empty"},
		{name: "comments only", text: "# a\n---\n# b\n---\n"},
		{name: "two", text: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: b, namespace: ns}\n", want: []string{"ConfigMap a", "Secret ns/b"}},
		{name: "json", text: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`, want: []string{"ConfigMap a"}},
		{name: "list", text: "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n- {apiVersion: v1, kind: Pod, metadata: {name: b}}\n", want: []string{"ConfigMap a", "Pod b"}},
		{name: "windows lines", text: "apiVersion: v1\r\nkind: ConfigMap\r\nmetadata: {name: a}\r\n---\r\napiVersion: v1\r\nkind: ConfigMap\r\nmetadata: {name: b}\r\n", want: []string{"ConfigMap a", "ConfigMap b"}},
		{name: "no name", text: "apiVersion: v1\nkind: ConfigMap\n", err: "metadata.name"},
		{name: "no kind", text: "a: b\n", err: "kind is missing"},
		{name: "second broken", text: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n][\n", err: "document 2"},
		{name: "key twice", text: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {}\ndata: {}\n", err: "data"},
		{name: "no map", text: "- a\n", err: "document 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parse([]byte(tt.text))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || got != nil {
					t.Fatalf("got %v and error %v, want one about %q", got, err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, u := range got {
				names = append(names, refOf(u).String())
			}
			if d := cmp.Diff(tt.want, names); d != "" {
				t.Errorf("objects (-want +got):\n%s", d)
			}
		})
	}
}

func object(apiVersion, kind, name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"name": name}}}
}

func TestOrder(t *testing.T) {
	tasks := []task{
		{"a", object("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "webhook")},
		{"a", object("apps/v1", "Deployment", "deployment")},
		{"a", object("example.org/v1", "Custom", "custom")},
		{"a", object("v1", "ServiceAccount", "account")},
		{"b", object("apiextensions.k8s.io/v1", "CustomResourceDefinition", "definition")},
		{"b", object("v1", "Service", "service")},
		{"b", object("v1", "Namespace", "namespace")},
	}
	order(tasks)
	var got []string
	for _, t := range tasks {
		got = append(got, t.object.GetName())
	}
	want := []string{"namespace", "definition", "account", "deployment", "custom", "service", "webhook"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("order (-want +got):\n%s", d)
	}
}

func TestStale(t *testing.T) {
	cm := func(ns, name string) ref { return ref{APIVersion: "v1", Kind: "ConfigMap", Namespace: ns, Name: name} }
	for _, tt := range []struct {
		name                string
		before, after, want []ref
	}{
		{name: "nothing"},
		{name: "gone", before: []ref{cm("a", "x"), cm("a", "y")}, after: []ref{cm("a", "x")}, want: []ref{cm("a", "y")}},
		{name: "other namespace", before: []ref{cm("a", "x")}, after: []ref{cm("b", "x")}, want: []ref{cm("a", "x")}},
		{name: "other version", before: []ref{{APIVersion: "x.io/v1beta1", Kind: "K", Name: "n"}}, after: []ref{{APIVersion: "x.io/v1", Kind: "K", Name: "n"}}},
		{name: "namespace not known yet", before: []ref{cm("default", "x")}, after: []ref{{APIVersion: "v1", Kind: "ConfigMap", Name: "x", loose: true}}},
		{
			name:   "order of deletion",
			before: []ref{{APIVersion: "v1", Kind: "Namespace", Name: "n"}, cm("n", "x")},
			want:   []ref{cm("n", "x"), {APIVersion: "v1", Kind: "Namespace", Name: "n"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, stale(tt.before, tt.after), cmp.AllowUnexported(ref{}), cmpopts.EquateEmpty()); d != "" {
				t.Errorf("stale (-want +got):\n%s", d)
			}
		})
	}
}

func TestKeeps(t *testing.T) {
	live := func(manager string, op metav1.ManagedFieldsOperationType, annotation string) *unstructured.Unstructured {
		u := object("v1", "ConfigMap", "x")
		u.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: manager, Operation: op}})
		if annotation != "" {
			u.SetAnnotations(map[string]string{annotationPrune: annotation})
		}
		return u
	}
	for _, tt := range []struct {
		name string
		u    *unstructured.Unstructured
		want bool
	}{
		{"ours", live(fieldManager, metav1.ManagedFieldsOperationApply, ""), false},
		{"opted out", live(fieldManager, metav1.ManagedFieldsOperationApply, "disabled"), true},
		{"opted out in words", live(fieldManager, metav1.ManagedFieldsOperationApply, "False"), true},
		{"other value", live(fieldManager, metav1.ManagedFieldsOperationApply, "enabled"), false},
		{"somebody else's", live("kubectl", metav1.ManagedFieldsOperationApply, ""), true},
		{"not applied", live(fieldManager, metav1.ManagedFieldsOperationUpdate, ""), true},
	} {
		if got := keeps(tt.u); (got != "") != tt.want {
			t.Errorf("%s: keeps = %q, want kept %t", tt.name, got, tt.want)
		}
	}
}
