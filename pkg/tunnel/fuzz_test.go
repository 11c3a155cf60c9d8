package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// FuzzTarget checks that what is taken for a target is one address.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"127.0.0.1:10250", "[fd00::1]:443", "[::ffff:1.2.3.4]:1", "[fe80::1%lo]:1", "a:1", ":", "0.0.0.0:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseTarget(s)
		if err != nil {
			return
		}
		again, err := parseTarget(got.String())
		if err != nil || again != got {
			t.Errorf("%q is read as %s, and that as %s (%v)", s, got, again, err)
		}
		if got.Port() == 0 || got.Addr().IsUnspecified() || got.Addr().Zone() != "" || got.Addr().Is4In6() {
			t.Errorf("%q is taken for %s", s, got)
		}
	})
}

// FuzzAnswer gives a peer arbitrary answers to its upgrade.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: skiff-tunnel/1\r\n\r\nPRI * HTTP/2.0"))
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: skiff-tunnel/2\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n"))
	f.Add([]byte("HTTP/1.0 503 x\r\n\r\n"))
	f.Add([]byte("HTTP/1.0 503 " + strings.Repeat("x", 3*maxMessage) + "\r\n\r\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://h/"+Path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		rest, _, err := readAnswer(bytes.NewReader(answer), req)
		if err == nil {
			found := bytes.Contains(answer, []byte("\n\r\n"))
			found0 := bytes.Contains(answer, []byte("\n\n"))
			left, _ := io.ReadAll(rest)
			if (found || found0) && !bytes.HasSuffix(answer, left) {
				t.Errorf("what follows the answer was changed: %q", left)
			}
			return
		}
		if told, ok := errors.AsType[*RefusedError](err); ok && len(told.Message) > maxMessage {
			t.Errorf("a message of %d bytes", len(told.Message))
		}
	})
}

// FuzzExit lets a server say arbitrary things to a peer in HTTP/2: nothing may
// be dialled that was not asked of Allow, and the peer lives.
func FuzzExit(f *testing.F) {
	f.Add(frames("127.0.0.1:10250", "CONNECT"), []byte("data"))
	f.Add(frames("10.0.0.1:1", "CONNECT"), []byte{})
	f.Add(frames("localhost:1", "GET"), []byte{0, 0, 0, 4, 0})
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"), []byte{0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Fuzz(speak)
}

// speak is a server that says something to a peer and leaves.
func speak(t *testing.T, opening, rest []byte) {
	e := newExit(func(_ context.Context, target netip.AddrPort) (netip.AddrPort, error) {
		if target.Addr().IsUnspecified() || target.Port() == 0 {
			t.Errorf("asked about %s", target)
		}
		return target, errors.New("nothing is allowed")
	}, slog.New(slog.DiscardHandler))
	server, client := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = e.serve(context.Background(), newWire(client, client))
	}()
	go func() { _, _ = io.Copy(io.Discard, server) }()
	_ = server.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = server.Write(opening)
	_, _ = server.Write(rest)
	_ = server.Close()
	select {
	case <-served:
	case <-time.After(5 * time.Millisecond): // HTTP/2 leaves a second for last words.
	}
}

// frames is the opening of a server that asks for a target.
func frames(target, method string) []byte {
	var out, head bytes.Buffer
	out.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&out, nil)
	_ = framer.WriteSettings()
	enc := hpack.NewEncoder(&head)
	_ = enc.WriteField(hpack.HeaderField{Name: ":method", Value: method})
	_ = enc.WriteField(hpack.HeaderField{Name: ":authority", Value: target})
	if method != http.MethodConnect {
		_ = enc.WriteField(hpack.HeaderField{Name: ":scheme", Value: "http"})
		_ = enc.WriteField(hpack.HeaderField{Name: ":path", Value: "/"})
	}
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true})
	_ = framer.WriteData(1, true, []byte("hello"))
	return out.Bytes()
}
