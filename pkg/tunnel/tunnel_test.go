package tunnel

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// TestIsAConnection runs Go's own tests of net.Conn against a tunnelled one.
func TestIsAConnection(t *testing.T) {
	s := newStage(t, nil)
	s.client("n1")
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, nil, err
		}
		defer l.Close()
		c1 = s.dial(l.Addr().String())
		c2, err = l.Accept()
		return c1, c2, func() { _, _ = c1.Close(), c2.Close() }, err
	})
}

func TestRefusals(t *testing.T) {
	s := newStage(t, nil)
	s.client("n1")
	s.dial(target(t, echo))
	closed := target(t, echo)
	down, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := down.Addr().String()
	_ = down.Close()
	tests := []struct {
		target  string
		refused bool
		want    string
	}{
		{"127.0.0.1:1", true, "not for you"},
		{"192.0.2.1:10250", true, "not for you"},
		{nobody, false, "connection refused"},
	}
	for _, tt := range tests {
		_, err := s.DialContext(t.Context(), "n1", tt.target)
		told, ok := errors.AsType[*TargetError](err)
		if !ok || told.Refused != tt.refused || told.Peer != "n1" || !strings.Contains(told.Message, tt.want) {
			t.Errorf("%s: %v", tt.target, err)
		}
	}
	if _, err := s.DialContext(t.Context(), "n1", "localhost:80"); err == nil {
		t.Error("a name was dialled")
	}
	if err := said(s.dial(closed), "still there"); err != nil {
		t.Error(err)
	}
}

func TestStrangers(t *testing.T) {
	s := newStage(t, nil)
	c, _ := s.client("stranger")
	l := &link{Client: c, server: s.address()}
	_, _, err := l.connect(t.Context())
	if told, ok := errors.AsType[*RefusedError](err); !ok || told.Status != http.StatusForbidden || told.Message != "nobody knows you" {
		t.Errorf("a stranger got %v", err)
	}
	var notes notes
	c.Notes, c.TLS = &notes, func() (*tls.Config, error) {
		return &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS13}, nil
	}
	if _, _, err = l.connect(t.Context()); err == nil {
		t.Fatal("a server of another authority was believed")
	}
	l.report(err)
	if got := notes.get(l.noteKey()); !strings.Contains(got, "another authority (O=Acme Co, key ") {
		t.Errorf("of a server of another authority status says %q", got)
	}
	resp, err := s.https.Client().Get("https://" + s.address() + "/connect/n1")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("without an upgrade: %s", resp.Status)
	}
	if peers := s.Peers(); peers != nil {
		t.Errorf("connected: %v", peers)
	}
}

// notes collects what a person would be told.
type notes struct{ all sync.Map }

func (n *notes) Set(key, message string) { n.all.Store(key, message) }
func (n *notes) Clear(key string)        { n.all.Delete(key) }

func (n *notes) get(key string) string {
	text, _ := n.all.Load(key)
	s, _ := text.(string)
	return s
}

// TestEnds checks what each side sees of the other's ends.
func TestEnds(t *testing.T) {
	s := newStage(t, nil)
	s.client("n1")
	t.Run("the server has no more to say", func(t *testing.T) {
		c := s.dial(target(t, func(c *net.TCPConn) {
			all, _ := io.ReadAll(c)
			_, _ = c.Write(append(all, " and more"...))
		}))
		_, _ = io.WriteString(c, "words")
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "words and more" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("the target has no more to say", func(t *testing.T) {
		c := s.dial(target(t, func(c *net.TCPConn) { _, _ = io.WriteString(c, "bye") }))
		if got, err := io.ReadAll(c); err != nil || string(got) != "bye" {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := io.WriteString(c, "hello?"); err == nil {
			t.Error("writing to a target that has gone")
		}
	})
	t.Run("the target breaks off", func(t *testing.T) {
		c := s.dial(target(t, func(c *net.TCPConn) {
			_, _ = c.Read(make([]byte, 1))
			_ = c.SetLinger(0)
		}))
		_, _ = io.WriteString(c, "x")
		if _, err := io.ReadAll(c); err == nil || !strings.Contains(err.Error(), "reset") {
			t.Errorf("the end reads as %v", err)
		}
	})
	t.Run("the server closes", func(t *testing.T) {
		got := make(chan int, 1)
		c := s.dial(target(t, func(c *net.TCPConn) {
			n, _ := io.Copy(io.Discard, c)
			got <- int(n)
		}))
		big := make([]byte, 3<<20)
		if _, err := c.Write(big); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if n := <-got; n != len(big) {
			t.Errorf("of %d bytes %d came before the close", len(big), n)
		}
	})
}

// TestSlowReader leaves streams unread in both directions, and then wants the
// others to go on.
func TestSlowReader(t *testing.T) {
	s := newStage(t, nil)
	s.client("n1")
	var talking, deaf sync.WaitGroup
	end := make(chan struct{})
	source := target(t, func(c *net.TCPConn) {
		_, _ = c.Write(make([]byte, 64<<20)) // until the stream is closed
	})
	sink := target(t, func(*net.TCPConn) { <-end })
	for range 20 {
		s.dial(source) // and is not read
		c := s.dial(sink)
		deaf.Go(func() { _, _ = c.Write(make([]byte, 64<<20)) })
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Cleanup(func() { close(end) })
	time.Sleep(200 * time.Millisecond)
	began := time.Now()
	there := target(t, echo)
	for range 4 {
		talking.Go(func() {
			c := s.dial(there)
			sent := make([]byte, 8<<20)
			_, _ = rand.Read(sent)
			go func() { _, _ = c.Write(sent) }()
			got := make([]byte, len(sent))
			if _, err := io.ReadFull(c, got); err != nil {
				t.Error(err)
			}
			if sha256.Sum256(sent) != sha256.Sum256(got) {
				t.Error("other bytes came back")
			}
		})
	}
	talking.Wait()
	t.Logf("4 times 8 MiB there and back beside 40 stalled streams took %s", time.Since(began).Round(time.Millisecond))
}

// TestHTTP uses the tunnel as the API server does: pooled connections to a
// server of HTTPS.
func TestHTTP(t *testing.T) {
	s := newStage(t, nil)
	_, stop := s.client("n1")
	kubelet := newKubelet(t)
	client := kubelet.through(s.Server, "n1")
	ask := func() (string, error) {
		resp, err := client.Get("https://127.0.0.1:" + kubelet.port + "/")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return string(text), err
	}
	if got, err := ask(); got != "HTTP/2.0" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	// The peer is started anew. What was in the pool may fail once, as with
	// any server that restarts, and never again.
	stop()
	s.client("n1")
	if _, err := ask(); err != nil {
		t.Logf("the pooled connection: %v", err)
	}
	for range 3 {
		if got, err := ask(); got != "HTTP/2.0" || err != nil {
			t.Errorf("after the restart: %q, %v", got, err)
		}
	}
}

func TestReasons(t *testing.T) {
	for body, want := range map[string]string{
		`{"code":"forbidden","message":"this is\nfor nodes"}`: "this is for nodes",
		"starting\n":        "starting",
		`{"other":"thing"}`: `{"other":"thing"}`,
		"":                  "403 Forbidden",
	} {
		answer := "HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n" + body
		_, _, err := readAnswer(strings.NewReader(answer), &http.Request{Method: http.MethodGet})
		if told, ok := errors.AsType[*RefusedError](err); !ok || told.Message != want || told.Status != http.StatusForbidden {
			t.Errorf("%q: %v, want %q", body, err, want)
		}
	}
}

func TestMessagesAreOneLine(t *testing.T) {
	if got := printable("a\x00b\r\nc\xff"); got != "a b  c?" {
		t.Errorf("got %q", got)
	}
}

func TestTargets(t *testing.T) {
	tests := []struct{ in, want string }{
		{"127.0.0.1:10250", "127.0.0.1:10250"},
		{"[fd00::1]:443", "[fd00::1]:443"},
		{"[::ffff:10.0.0.1]:443", "10.0.0.1:443"},
		{"localhost:10250", ""},
		{"10.0.0.1", ""},
		{"10.0.0.1:0", ""},
		{"0.0.0.0:80", ""},
		{"[::]:80", ""},
		{"[fe80::1%eth0]:80", ""},
		{"224.0.0.1:80", ""},
		{"10.0.0.1:99999", ""},
		{"", ""},
	}
	for _, tt := range tests {
		got, err := parseTarget(tt.in)
		if tt.want == "" && err == nil || tt.want != "" && got.String() != tt.want {
			t.Errorf("%q: %v, %v, want %q", tt.in, got, err, tt.want)
		}
	}
}

// TestBuffer moves bytes through a buffer in odd pieces.
func TestBuffer(t *testing.T) {
	var b buffer
	sent := make([]byte, 10*bufferSize+7)
	_, _ = rand.Read(sent)
	go func() {
		for p, n := sent, 1; len(p) > 0; n = n*3%5003 + 1 {
			n := min(n, len(p))
			if _, err := b.write(p[:n], nil); err != nil {
				t.Error(err)
			}
			p = p[n:]
		}
		b.end(io.EOF)
	}()
	var got bytes.Buffer
	for n := 1; ; n = n*7%9001 + 1 {
		p := make([]byte, n)
		n, err := b.read(p, nil)
		got.Write(p[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(sent, got.Bytes()) {
		t.Errorf("%d bytes came, of %d, or others", got.Len(), len(sent))
	}
	b.leave(net.ErrClosed)
	if _, err := b.write([]byte("x"), nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing to nobody: %v", err)
	}
	var d deadline
	d.set(time.Now().Add(-time.Second))
	if _, err := new(buffer).read(make([]byte, 1), &d); err == nil {
		t.Error("a deadline that has passed is not kept")
	}
}
