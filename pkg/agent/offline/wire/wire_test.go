package wire

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
)

func pods() *corev1.PodList {
	list := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "77"}}
	for _, name := range []string{"a", "b", "c"} {
		list.Items = append(list.Items, corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Namespace: "shop", UID: "uid-of-" + "x", ResourceVersion: "4" + name,
				Annotations: map[string]string{"a": "b"}, Labels: map[string]string{"l": "m"},
			},
			Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		})
	}
	return list
}

// upstream encodes as an API server does.
func upstream(t *testing.T, o runtime.Object, kind string) []byte {
	t.Helper()
	o.GetObjectKind().SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
	var b bytes.Buffer
	if err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(o, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestList reads upstream's body in pieces of each size, makes it again, and
// upstream reads that.
func TestList(t *testing.T) {
	body := upstream(t, pods(), "PodList")
	for size := 1; size <= len(body)+1; size++ {
		var items [][]byte
		var names []string
		l := List{Item: func(o []byte) error {
			m, err := ParseMeta(o)
			names = append(names, m.Namespace+"/"+m.Name+"@"+m.Version)
			items = append(items, bytes.Clone(o))
			return err
		}}
		for rest := body; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			if l.Complete() && len(rest) > 16 {
				t.Fatal("complete too soon")
			}
			if _, err := l.Write(rest[:min(size, len(rest))]); err != nil {
				t.Fatal(err)
			}
		}
		if !l.Complete() || l.Version != "77" {
			t.Fatalf("size %d: complete %v, version %q", size, l.Complete(), l.Version)
		}
		if diff := cmp.Diff([]string{"shop/a@4a", "shop/b@4b", "shop/c@4c"}, names); diff != "" {
			t.Fatalf("size %d: -want +got\n%s", size, diff)
		}
		got, _, err := scheme.Codecs.UniversalDeserializer().Decode(WrapList("v1", "PodList", "77", items), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := pods()
		got.GetObjectKind().SetGroupVersionKind(want.GroupVersionKind())
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("size %d: -want +got\n%s", size, diff)
		}
	}
}

func TestEvents(t *testing.T) {
	one := pods().Items[0]
	body := upstream(t, &one, "Pod")
	object, err := Unwrap(body)
	if err != nil {
		t.Fatal(err)
	}
	frames := WrapEvent("ADDED", body)
	frames = append(frames, WrapEvent("BOOKMARK", Wrap("v1", "Pod", Bookmark("99")))...)
	for size := 1; size <= len(frames); size++ {
		var got []string
		e := Events{Event: func(kind string, o []byte) error {
			m, err := ParseMeta(o)
			end := ""
			if m.InitialEnd {
				end = "!"
			} else if !bytes.Equal(o, object) {
				t.Error("the object is another")
			}
			got = append(got, kind+" "+m.Name+"@"+m.Version+end)
			return err
		}}
		for rest := frames; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			if _, err := e.Write(rest[:min(size, len(rest))]); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff([]string{"ADDED a@4a", "BOOKMARK @99!"}, got); diff != "" {
			t.Fatalf("size %d: -want +got\n%s", size, diff)
		}
	}
}

func TestMalformed(t *testing.T) {
	tests := []struct{ name, body string }{
		{"json", `{"kind":"PodList"}`},
		{"endless element", "k8s\x00\x12\xff\xff\xff\x7f\x12\xff\xff\xff\x7f"},
		{"element beyond its list", "k8s\x00\x12\x02\x12\x05hello"},
	}
	for _, tt := range tests {
		l := List{Item: func([]byte) error { return nil }}
		_, err := l.Write([]byte(tt.body))
		if !errors.Is(err, ErrMalformed) || l.Complete() {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func FuzzList(f *testing.F) {
	f.Add([]byte("k8s\x00\x12\x02\x12\x00"))
	f.Add(WrapList("v1", "PodList", "1", [][]byte{{0x0a, 0x03, 0x0a, 0x01, 'a'}}))
	f.Fuzz(func(_ *testing.T, body []byte) {
		l := List{Item: func(o []byte) error { _, err := ParseMeta(o); return err }}
		_, _ = l.Write(body)
		e := Events{Event: func(_ string, o []byte) error { _, err := ParseMeta(o); return err }}
		_, _ = e.Write(body)
	})
}
