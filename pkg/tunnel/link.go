package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"skiff/internal/backoff"
	"skiff/pkg/pki"
)

// Pauses between attempts. The longest is short, since a session is to be back
// ten seconds after the network is; who refuses is asked less often.
const (
	pauseMin     = 500 * time.Millisecond
	pauseMax     = 3 * time.Second
	pauseRefused = 15 * time.Second
	// stable is how long a session lasts that was not worth a longer pause.
	stable = 10 * time.Second
)

// link keeps the connection to one server.
type link struct {
	*Client

	server string
	exit   *exit
	failed bool // the failure has been told
}

// run connects again and again until ctx ends.
func (l *link) run(ctx context.Context) {
	pauses := backoff.Sequence{Min: pauseMin, Max: pauseMax}
	defer l.clear()
	for {
		began := time.Now()
		err := l.attempt(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > stable {
			pauses.Reset()
		}
		if same, ok := errors.AsType[*sameError](err); ok {
			l.Logger.Debug("server is connected under another address", "server", l.server)
			l.clear()
			select {
			case <-ctx.Done():
				return
			case <-same.freed:
				continue
			}
		}
		l.report(err)
		if !rest(ctx, l.place(), l.patience(pauses.Next(), time.Since(began), err)) {
			return
		}
	}
}

// rest waits, but not for longer than there is no reason to try again. It
// returns false when ctx ends.
func rest(ctx, place context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-place.Done():
	case <-timer.C:
	}
	return true
}

// patience is how long to wait after an attempt. One that has taken its time,
// because packets vanish, need not be followed by a long pause.
func (*link) patience(wait, took time.Duration, err error) time.Duration {
	if _, ok := errors.AsType[*RefusedError](err); ok {
		return jitter(pauseRefused)
	}
	return max(jitter(wait)-took, jitter(pauseMin))
}

// jitter spreads those who lost the same server at the same moment.
func jitter(d time.Duration) time.Duration {
	return d/4 + rand.N(d*3/4+1)
}

// attempt connects and serves until that ends, and returns why.
func (l *link) attempt(ctx context.Context) error {
	w, id, err := l.connect(ctx)
	if err != nil {
		return err
	}
	if taken := l.hold(id, l.server, w); taken != nil {
		_ = w.Close() // Nothing has happened on it.
		return &sameError{taken}
	}
	defer l.release(id)
	if l.Watched != nil {
		defer l.watch(w)()
	}
	l.Logger.Info("tunnel is open", "server", l.server)
	l.clear()
	return l.exit.serve(ctx, w)
}

// watch tells others of a session for as long as its connection lasts, which
// the streams may outlive by seconds. The function returned waits for the end.
func (l *link) watch(w *wire) (wait func()) {
	l.Watched(l.server, true)
	var ended sync.WaitGroup
	ended.Go(func() {
		<-w.done
		l.Watched(l.server, false)
	})
	return ended.Wait
}

// sameError says that there is a session with this server already, until freed
// is closed.
type sameError struct{ freed <-chan struct{} }

func (*sameError) Error() string { return "the server is connected under another address" }

// connect dials, proves who it is and turns the roles. It also returns who the
// server is.
func (l *link) connect(ctx context.Context) (_ *wire, id string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, connectTimeout, fmt.Errorf("no answer within %s", connectTimeout))
	defer cancel()
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	place := l.place()
	defer context.AfterFunc(place, func() {
		if why := context.Cause(place); errors.Is(why, errMoved) {
			leave(why)
		}
	})()
	conf, err := l.TLS()
	if err != nil {
		return nil, "", fmt.Errorf("prepare TLS: %w", err)
	}
	conf = conf.Clone()
	conf.NextProtos = []string{"http/1.1"} // HTTP/2 cannot be upgraded.
	host, _, err := net.SplitHostPort(l.server)
	if err != nil {
		return nil, "", fmt.Errorf("server address %q: %w", l.server, err)
	}
	if conf.ServerName == "" {
		conf.ServerName = host
	}
	raw, err := dial(ctx, l.server)
	if err != nil {
		return nil, "", withCause(ctx, err)
	}
	c := tls.Client(raw, conf)
	defer func() {
		if err != nil {
			err = withCause(ctx, err)
			_ = c.Close() // It was of no use.
		}
	}()
	if err := errors.Join(tune(c), watch(c, true)); err != nil {
		return nil, "", err
	}
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, "", pki.Foreign(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) }) // Fails on a closed connection only.
	reader, id, err := l.upgrade(c)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, "", err
	}
	return newWire(c, reader), id, nil
}

// withCause says why a ctx ended rather than that it did.
func withCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// upgrade asks for the tunnel and returns what is to be read from then on.
func (l *link) upgrade(c net.Conn) (_ io.Reader, id string, err error) {
	path := l.Path
	if path == "" {
		path = Path
	}
	req, err := http.NewRequest(http.MethodGet, "https://"+l.server+path, http.NoBody) //nolint:noctx // The caller's deadline is on the connection.
	if err != nil {
		return nil, "", fmt.Errorf("ask for the tunnel: %w", err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", Protocol)
	if err := req.Write(c); err != nil {
		return nil, "", fmt.Errorf("ask for the tunnel: %w", err)
	}
	return readAnswer(c, req)
}

// readAnswer reads the head of the answer and not a byte more than may be read
// of it later.
func readAnswer(c io.Reader, req *http.Request) (_ io.Reader, id string, err error) {
	limited := &io.LimitedReader{R: c, N: maxHead}
	buffered := bufio.NewReader(limited)
	resp, err := http.ReadResponse(buffered, req)
	if err != nil {
		return nil, "", fmt.Errorf("read the server's answer: %w", err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		if got := resp.Header.Get("Upgrade"); got != Protocol {
			return nil, "", fmt.Errorf("the server speaks %.40q, want %q; run the same release of skiff on both", got, Protocol)
		}
		limited.N = math.MaxInt64
		return buffered, resp.Header.Get(headerServer), nil
	}
	return nil, "", &RefusedError{Status: resp.StatusCode, Message: reason(resp)}
}

// reason is what a server says in words, be they in JSON or not.
func reason(resp *http.Response) string {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	if err != nil || len(text) == 0 {
		return printable(resp.Status)
	}
	var told struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(text, &told) == nil && told.Message != "" {
		return printable(told.Message)
	}
	return printable(strings.TrimSpace(string(text)))
}

func (l *link) noteKey() string { return "tunnel/" + l.server }

// report tells a failure once; `skiff status` has it for as long as it lasts.
func (l *link) report(err error) {
	if l.Notes != nil {
		l.Notes.Set(l.noteKey(), fmt.Sprintf("no tunnel to server %s, logs and exec of this node's pods do not work through it: %s", l.server, err))
	}
	if l.failed {
		l.Logger.Debug("still no tunnel", "server", l.server, "error", err)
		return
	}
	l.failed = true
	l.Logger.Warn("no tunnel to a server, trying again", "server", l.server, "error", err)
}

func (l *link) clear() {
	l.failed = false
	if l.Notes != nil {
		l.Notes.Clear(l.noteKey())
	}
}
