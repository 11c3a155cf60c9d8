package k3s

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// magic begins the API server's values in protobuf.
//
// Source: k8s.io/apimachinery, pkg/runtime/serializer/protobuf.
var magic = []byte("k8s\x00")

// object is what the datastore has under one key.
type object struct {
	key        string
	apiVersion string
	kind       string
	meta       metav1.ObjectMeta
	// body is the rest: protobuf, or JSON.
	body  []byte
	proto bool
}

// errEncrypted says that a value can be read with K3s' encryption key only.
var errEncrypted = errors.New("it is encrypted")

// parse reads a value. What is no object is an error.
func parse(key string, value []byte) (*object, error) {
	if bytes.HasPrefix(value, []byte("k8s:enc:")) {
		return nil, errEncrypted
	}
	if !bytes.HasPrefix(value, magic) {
		var o struct {
			metav1.TypeMeta `json:",inline"`
			Metadata        metav1.ObjectMeta `json:"metadata"`
		}
		if err := json.Unmarshal(value, &o); err != nil {
			return nil, fmt.Errorf("read %s: %w", key, err)
		}
		return &object{key: key, apiVersion: o.APIVersion, kind: o.Kind, meta: o.Metadata, body: value}, nil
	}
	var u runtime.Unknown
	if err := u.Unmarshal(value[len(magic):]); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	// All kinds have their ObjectMeta in the first field, and what is not known
	// is skipped.
	var o metav1.PartialObjectMetadata
	if err := o.Unmarshal(u.Raw); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return &object{key: key, apiVersion: u.APIVersion, kind: u.Kind, meta: o.ObjectMeta, body: u.Raw, proto: true}, nil
}

// name is namespace and name, or the name.
func (o *object) name() string {
	if o.meta.Namespace == "" {
		return o.meta.Name
	}
	return o.meta.Namespace + "/" + o.meta.Name
}

// field reads one text of a JSON object.
func (o *object) field(path ...string) string {
	var at any
	if o.proto || json.Unmarshal(o.body, &at) != nil {
		return ""
	}
	for _, p := range path {
		m, _ := at.(map[string]any)
		at = m[p]
	}
	s, _ := at.(string)
	return s
}

// withoutFinalizers returns the value without the finalizers for which drop is
// true, and whether there were any: those who would take them off are gone.
func withoutFinalizers(value []byte, o *object, drop func(string) bool) ([]byte, bool, error) {
	left := slices.DeleteFunc(slices.Clone(o.meta.Finalizers), drop)
	if len(left) == len(o.meta.Finalizers) {
		return value, false, nil
	}
	if o.proto {
		out, err := editProto(value, left)
		return out, true, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(value, &all); err != nil {
		return nil, false, err
	}
	var meta map[string]json.RawMessage
	if err := json.Unmarshal(all["metadata"], &meta); err != nil {
		return nil, false, err
	}
	list, err := json.Marshal(left)
	if err != nil {
		return nil, false, err
	}
	if meta["finalizers"] = list; len(left) == 0 {
		delete(meta, "finalizers")
	}
	if all["metadata"], err = json.Marshal(meta); err != nil {
		return nil, false, err
	}
	out, err := json.Marshal(all)
	return out, true, err
}

// editProto puts an object's metadata back with other finalizers, and leaves
// every other byte of it alone.
func editProto(value []byte, finalizers []string) ([]byte, error) {
	var u runtime.Unknown
	if err := u.Unmarshal(value[len(magic):]); err != nil {
		return nil, err
	}
	var out []byte
	for rest := u.Raw; len(rest) > 0; {
		number, kind, n := protowire.ConsumeField(rest)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		_ = kind
		field := rest[:n]
		rest = rest[n:]
		if number != 1 {
			out = append(out, field...)
			continue
		}
		_, _, tag := protowire.ConsumeTag(field)
		content, m := protowire.ConsumeBytes(field[tag:])
		if m < 0 {
			return nil, protowire.ParseError(m)
		}
		var meta metav1.ObjectMeta
		if err := meta.Unmarshal(content); err != nil {
			return nil, err
		}
		meta.Finalizers = finalizers
		edited, err := meta.Marshal()
		if err != nil {
			return nil, err
		}
		out = protowire.AppendTag(out, 1, protowire.BytesType)
		out = protowire.AppendBytes(out, edited)
	}
	u.Raw = out
	packed, err := u.Marshal()
	if err != nil {
		return nil, err
	}
	return append(bytes.Clone(magic), packed...), nil
}

// wranglers reports whether a finalizer is one of K3s' controllers.
func wranglers(finalizer string) bool {
	return strings.HasPrefix(finalizer, "wrangler.cattle.io/") || strings.HasSuffix(finalizer, ".k3s.cattle.io") || strings.Contains(finalizer, "k3s.io/")
}
