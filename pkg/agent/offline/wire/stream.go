package wire

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// List reads the body of a list as it comes in and holds no more of it than
// one object.
type List struct {
	// Item is given each object, which is valid during the call only.
	Item func(object []byte) error

	Version  string // of the list
	Continue string // not empty: there are more pages

	buf  []byte
	at   place
	left int // bytes of the list proper that have not been read
	err  error
}

// place is how far into the body a List is.
type place int

const (
	inMagic place = iota
	inEnvelope
	inList
	inTrailer
)

// Write takes in the next part of the body. After an error it does nothing.
func (l *List) Write(p []byte) (int, error) {
	if l.err != nil {
		return 0, l.err
	}
	if l.at == inTrailer {
		return len(p), nil
	}
	l.buf = append(l.buf, p...)
	rest := l.buf
	for l.err == nil && l.at != inTrailer {
		n := l.step(rest)
		if n == 0 && l.err == nil {
			break
		}
		rest = rest[n:]
	}
	if l.err != nil || l.at == inTrailer {
		l.buf = nil
		return len(p), l.err
	}
	// What is left is moved to the front; a buffer made for a giant is let go.
	if cap(l.buf) > 1<<20 && len(rest) < 1<<16 {
		l.buf = append([]byte(nil), rest...)
	} else {
		l.buf = l.buf[:copy(l.buf, rest)]
	}
	return len(p), nil
}

// Complete reports whether the whole list has been read.
func (l *List) Complete() bool { return l.err == nil && l.at == inTrailer }

// step reads one element of b and returns its length, 0 if there is not
// enough yet.
func (l *List) step(b []byte) int {
	if l.at == inMagic {
		if len(b) < len(magic) {
			return 0
		}
		if string(b[:len(magic)]) != magic {
			l.err = fmt.Errorf("%w: it does not begin like one", ErrMalformed)
			return 0
		}
		l.at = inEnvelope
		return len(magic)
	}
	n, value, size := l.next(b)
	if size == 0 {
		return 0
	}
	if l.at == inEnvelope {
		if n == 2 { // value is what follows: the list proper.
			l.at = inList
			if l.left == 0 {
				l.at = inTrailer
			}
		}
		return size
	}
	if l.left -= size; l.left < 0 {
		l.err = fmt.Errorf("%w: an element is longer than its list", ErrMalformed)
		return 0
	}
	l.element(n, value)
	if l.left == 0 {
		l.at = inTrailer
	}
	return size
}

// next reads a field. Of the one that holds the list it reads the head only.
func (l *List) next(b []byte) (n protowire.Number, value []byte, size int) {
	n, kind, head := protowire.ConsumeTag(b)
	if head < 0 {
		if len(b) > 16 {
			l.err = fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(head))
		}
		return 0, nil, 0
	}
	if kind != protowire.BytesType {
		if size = protowire.ConsumeFieldValue(n, kind, b[head:]); size < 0 {
			if len(b) > 32 {
				l.err = fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(size))
			}
			return 0, nil, 0
		}
		return n, nil, head + size
	}
	length, v := protowire.ConsumeVarint(b[head:])
	if v < 0 {
		if len(b) > 32 {
			l.err = fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(v))
		}
		return 0, nil, 0
	}
	if l.at == inEnvelope && n == 2 {
		if length > 1<<31 {
			l.err = fmt.Errorf("%w: a list of %d bytes", ErrMalformed, length)
			return 0, nil, 0
		}
		l.left = int(length) //nolint:gosec // Checked above.
		return n, nil, head + v
	}
	if length > MaxObject {
		l.err = fmt.Errorf("%w: an element of %d bytes", ErrMalformed, length)
		return 0, nil, 0
	}
	end := head + v + int(length) //nolint:gosec // Checked above.
	if len(b) < end {
		return 0, nil, 0
	}
	return n, b[head+v : end], end
}

// element takes in a field of the list.
func (l *List) element(n protowire.Number, value []byte) {
	switch n {
	case 1:
		l.err = each(value, func(n protowire.Number, value []byte) {
			switch n {
			case 2:
				l.Version = string(value)
			case 3:
				l.Continue = string(value)
			}
		})
	case 2:
		if err := l.Item(value); err != nil {
			l.err = err
		}
	}
}

// Events reads the frames of a watch as they come in.
type Events struct {
	// Event is given each event with its object out of the envelope, which is
	// valid during the call only.
	Event func(kind string, object []byte) error

	buf []byte
	err error
}

// Write takes in the next part of the body. After an error it does nothing.
func (e *Events) Write(p []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	// Mostly a frame comes whole, and is not copied.
	rest := p
	if len(e.buf) > 0 {
		e.buf = append(e.buf, p...)
		rest = e.buf
	}
	for len(rest) >= 4 {
		n := int(binary.BigEndian.Uint32(rest))
		if n > MaxObject {
			e.err = fmt.Errorf("%w: an event of %d bytes", ErrMalformed, n)
			break
		}
		if len(rest) < 4+n {
			break
		}
		if e.err = e.frame(rest[4 : 4+n]); e.err != nil {
			break
		}
		rest = rest[4+n:]
	}
	if e.err != nil || len(rest) == 0 {
		e.buf = nil
		return len(p), e.err
	}
	e.buf = append([]byte(nil), rest...)
	return len(p), nil
}

// Between reports whether what has come ends with the end of an event.
func (e *Events) Between() bool { return e.err == nil && len(e.buf) == 0 }

func (e *Events) frame(b []byte) error {
	var kind string
	var raw []byte
	if err := each(b, func(n protowire.Number, value []byte) {
		switch n {
		case 1:
			kind = string(value)
		case 2:
			raw = value
		}
	}); err != nil {
		return err
	}
	body, err := field(raw, 1)
	if err != nil {
		return err
	}
	object, err := Unwrap(body)
	if err != nil {
		return err
	}
	return e.Event(kind, object)
}
