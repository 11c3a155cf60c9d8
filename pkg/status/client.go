package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"

	"skiff/internal/backoff"
)

// Errors that decide the exit code of `skiff status`.
var (
	ErrNotRunning = errors.New("skiff is not running")
	ErrNotReady   = errors.New("skiff is not ready")
)

// Client asks the skiff that listens on a socket.
type Client struct {
	Socket string // paths.Layout.StatusSocket
}

// answerError says that somebody answered, and not what was hoped for.
type answerError struct{ text string }

// Error names path and status.
func (e *answerError) Error() string { return e.text }

// Get returns the report as it is now. If nobody answers at the socket the
// error is ErrNotRunning.
func (c *Client) Get(ctx context.Context) (*Report, error) {
	body, err := c.Open(ctx, "/status")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var r Report
	if err := json.NewDecoder(body).Decode(&r); err != nil {
		return nil, fmt.Errorf("read status from %s: %w", c.Socket, err)
	}
	return &r, nil
}

// Open asks for a path of the socket and returns the answer, which the caller
// closes. If nobody answers the error is ErrNotRunning.
func (c *Client) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
		},
		DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://skiff"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", path, err)
	}
	resp, err := tr.RoundTrip(req)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w (no socket at %s)", ErrNotRunning, c.Socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w (nobody listens on %s)", ErrNotRunning, c.Socket)
	case err != nil:
		return nil, fmt.Errorf("ask %s for %s: %w", c.Socket, path, err)
	}
	if resp.StatusCode != http.StatusOK {
		err := &answerError{fmt.Sprintf("ask %s for %s: %s", c.Socket, path, resp.Status)}
		return nil, errors.Join(err, resp.Body.Close())
	}
	return resp.Body, nil
}

// askLimit bounds one question of Wait, so that a skiff which hangs does not
// outlast the caller's patience unnoticed.
const askLimit = 5 * time.Second

// Wait asks until skiff is ready or ctx ends; skiff need not be running yet. It
// returns the last report it got, or nil, also beside an error: ErrNotReady
// when ctx ended with skiff running, else the error of the last Get that ctx has
// not cut off.
func (c *Client) Wait(ctx context.Context) (*Report, error) {
	var last *Report
	var before error
	pause := backoff.Sequence{Min: 50 * time.Millisecond, Max: 500 * time.Millisecond}
	for {
		askCtx, cancel := context.WithTimeout(ctx, askLimit)
		r, err := c.Get(askCtx)
		cancel()
		switch {
		case err == nil && r.Ready:
			return r, nil
		case err == nil:
			last, err = r, ErrNotReady
		case ctx.Err() != nil && last != nil:
			err = ErrNotReady // The question was cut off by the deadline.
		case errors.Is(err, ErrNotRunning):
			last = nil // What it said before it ended is history.
		case ctx.Err() != nil && before != nil:
			err = before
		}
		before = err
		if waitErr := pause.Wait(ctx); waitErr != nil {
			return last, err
		}
	}
}
