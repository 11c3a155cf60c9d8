// Package wire takes the bodies of Kubernetes' API apart and puts them together
// in their protobuf form without decoding the objects: who keeps a hundred
// pods to hand them out again needs their names and versions, not their
// hundred thousand Go values. It knows neither the kinds of objects nor HTTP.
// Start reading at Meta; List and Events read streams as they come.
//
// Source: k8s.io/apimachinery, pkg/runtime/generated.proto (Unknown) and
// pkg/apis/meta/v1/generated.proto (ObjectMeta, ListMeta, WatchEvent);
// every kind has its ObjectMeta in field 1, and every list its ListMeta in
// field 1 and its items in field 2.
package wire

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// ContentType is that of the bodies this package understands.
const ContentType = "application/vnd.kubernetes.protobuf"

// magic begins every body except the frames of a watch.
const magic = "k8s\x00"

// MaxObject bounds what one object may take; etcd's limit is below it.
const MaxObject = 8 << 20

// initialEnd is the annotation of the event that ends the initial ones.
const initialEnd = "k8s.io/initial-events-end"

// ErrMalformed says that a body is not what it should be.
var ErrMalformed = errors.New("malformed protobuf body")

// Meta is what of an object's metadata matters here.
type Meta struct {
	Namespace, Name, UID, Version string
	// InitialEnd is set on the bookmark after a watch's initial events.
	InitialEnd bool
}

// ParseMeta reads the metadata of an object without envelope.
func ParseMeta(object []byte) (Meta, error) {
	var m Meta
	meta, err := field(object, 1)
	if err != nil {
		return m, err
	}
	err = each(meta, func(n protowire.Number, value []byte) {
		switch n {
		case 1:
			m.Name = string(value)
		case 3:
			m.Namespace = string(value)
		case 5:
			m.UID = string(value)
		case 6:
			m.Version = string(value)
		case 12:
			if key, err := field(value, 1); err == nil && string(key) == initialEnd {
				m.InitialEnd = true
			}
		}
	})
	return m, err
}

// Unwrap takes the envelope off a body.
func Unwrap(body []byte) ([]byte, error) {
	if len(body) < len(magic) || string(body[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: it does not begin like one", ErrMalformed)
	}
	return field(body[len(magic):], 2)
}

// Wrap puts an object into its envelope.
func Wrap(apiVersion, kind string, object []byte) []byte {
	out := append(make([]byte, 0, len(object)+64), magic...)
	out = protowire.AppendTag(out, 1, protowire.BytesType)
	out = protowire.AppendBytes(out, typeMeta(apiVersion, kind))
	out = protowire.AppendTag(out, 2, protowire.BytesType)
	out = protowire.AppendBytes(out, object)
	// What upstream writes, too: no content encoding, no content type.
	out = protowire.AppendTag(out, 3, protowire.BytesType)
	out = protowire.AppendBytes(out, nil)
	out = protowire.AppendTag(out, 4, protowire.BytesType)
	return protowire.AppendBytes(out, nil)
}

func typeMeta(apiVersion, kind string) []byte {
	out := protowire.AppendTag(nil, 1, protowire.BytesType)
	out = protowire.AppendString(out, apiVersion)
	out = protowire.AppendTag(out, 2, protowire.BytesType)
	return protowire.AppendString(out, kind)
}

// WrapList makes the body of a list.
func WrapList(apiVersion, kind, version string, items [][]byte) []byte {
	size := 64
	for _, i := range items {
		size += len(i) + 8
	}
	list := make([]byte, 0, size)
	list = protowire.AppendTag(list, 1, protowire.BytesType)
	list = protowire.AppendBytes(list, versioned(version))
	for _, i := range items {
		list = protowire.AppendTag(list, 2, protowire.BytesType)
		list = protowire.AppendBytes(list, i)
	}
	return Wrap(apiVersion, kind, list)
}

// versioned is a ListMeta with a resource version.
func versioned(version string) []byte {
	out := protowire.AppendTag(nil, 2, protowire.BytesType)
	return protowire.AppendString(out, version)
}

// WrapEvent makes a frame of a watch.
func WrapEvent(kind string, wrapped []byte) []byte {
	raw := protowire.AppendTag(nil, 1, protowire.BytesType)
	raw = protowire.AppendBytes(raw, wrapped)
	event := protowire.AppendTag(nil, 1, protowire.BytesType)
	event = protowire.AppendString(event, kind)
	event = protowire.AppendTag(event, 2, protowire.BytesType)
	event = protowire.AppendBytes(event, raw)
	n := len(event)
	return append([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, event...)
}

// Bookmark makes an object that has nothing but a version, and the sign that
// ends initial events.
func Bookmark(version string) []byte {
	entry := protowire.AppendTag(nil, 1, protowire.BytesType)
	entry = protowire.AppendString(entry, initialEnd)
	entry = protowire.AppendTag(entry, 2, protowire.BytesType)
	entry = protowire.AppendString(entry, "true")
	meta := protowire.AppendTag(nil, 6, protowire.BytesType)
	meta = protowire.AppendString(meta, version)
	meta = protowire.AppendTag(meta, 12, protowire.BytesType)
	meta = protowire.AppendBytes(meta, entry)
	out := protowire.AppendTag(nil, 1, protowire.BytesType)
	return protowire.AppendBytes(out, meta)
}

// field returns the last value of a length-delimited field, nil if there is none.
func field(message []byte, want protowire.Number) ([]byte, error) {
	var found []byte
	err := each(message, func(n protowire.Number, value []byte) {
		if n == want {
			found = value
		}
	})
	return found, err
}

// each calls fn with every length-delimited field.
func each(message []byte, fn func(protowire.Number, []byte)) error {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(size))
		}
		message = message[size:]
		if kind != protowire.BytesType {
			if size = protowire.ConsumeFieldValue(n, kind, message); size < 0 {
				return fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(size))
			}
			message = message[size:]
			continue
		}
		value, size := protowire.ConsumeBytes(message)
		if size < 0 {
			return fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(size))
		}
		fn(n, value)
		message = message[size:]
	}
	return nil
}
