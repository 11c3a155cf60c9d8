package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"time"

	"skiff/internal/backoff"
	"skiff/internal/pause"
)

const (
	// gather is how long changes are collected before they are sent as one.
	gather = 100 * time.Millisecond
	// lookAgain is how often a watched status is put together again for what
	// does not say that it has changed: the nodes.
	lookAgain = 10 * time.Second
	// nodesLimit bounds the question for the nodes: an API server that hangs
	// must not hide the rest.
	nodesLimit = 2 * time.Second
)

// nodes asks for the nodes, but not during the start: whoever waits for its end
// asks often, and the API server has other things to do.
func (s *Server) nodes(ctx context.Context) []Node {
	select {
	case <-s.Source.Ready():
	default:
		return nil
	}
	if s.Nodes == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, nodesLimit)
	defer cancel()
	return s.Nodes(ctx)
}

// watch sends a report, and another one whenever it says something else, one
// line each, until the caller goes.
func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	ctx, out := r.Context(), http.NewResponseController(w)
	var last []byte
	for {
		parts, notes := s.Source.Changed(), (<-chan struct{})(nil)
		if s.Notes != nil {
			notes = s.Notes.Changed()
		}
		report := s.Report()
		report.Nodes = s.nodes(ctx)
		line, essence, err := lines(report)
		if err == nil && !bytes.Equal(essence, last) {
			_, err = w.Write(line)
			err = errors.Join(err, out.Flush())
			last = essence
		}
		if err != nil {
			s.Logger.Debug("status not sent", "err", err)
			return
		}
		again := time.NewTimer(lookAgain)
		select {
		case <-parts:
		case <-notes:
		case <-again.C:
		case <-ctx.Done():
		}
		again.Stop()
		if !pause.For(ctx, gather) {
			return
		}
	}
}

// lines are a report as it is sent, and what of it is compared: figures that
// grow all the time are no news.
func lines(r *Report) (line, essence []byte, err error) {
	if line, err = json.Marshal(r); err != nil {
		return nil, nil, err
	}
	quiet := *r
	quiet.Wear = nil
	essence, err = json.Marshal(&quiet)
	return append(line, '\n'), essence, err
}

// Watch calls show with a report, and again whenever it changes; with nil when
// nobody answers at the socket, and again when somebody does. It asks nothing
// meanwhile: the server speaks when it has something to say. It returns when
// ctx has ended, or with what show returned if that is an error.
func (c *Client) Watch(ctx context.Context, show func(*Report) error) error {
	again := backoff.Sequence{Min: 100 * time.Millisecond, Max: time.Second}
	gone := false
	for {
		err := c.follow(ctx, func(r *Report) error {
			again.Reset()
			gone = false
			return show(r)
		})
		if final, ok := errors.AsType[*finalError](err); ok {
			return final.err
		}
		if ctx.Err() != nil {
			return nil
		}
		if !gone {
			gone = true
			if err := show(nil); err != nil {
				return err
			}
		}
		if again.Wait(ctx) != nil {
			return nil
		}
	}
}

// finalError is one that asking again will not mend.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }

// follow reads reports until the connection ends.
func (c *Client) follow(ctx context.Context, show func(*Report) error) error {
	body, err := c.Open(ctx, "/watch")
	if _, answered := errors.AsType[*answerError](err); answered || errors.Is(err, fs.ErrPermission) {
		return &finalError{err}
	}
	if err != nil {
		return err
	}
	defer body.Close()
	for reports := json.NewDecoder(body); ; {
		var r Report
		if err := reports.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read status from %s: %w", c.Socket, err)
		}
		if err := show(&r); err != nil {
			return &finalError{err}
		}
	}
}
