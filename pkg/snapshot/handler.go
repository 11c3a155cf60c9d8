package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// Path is where a running server makes snapshots on request: it alone may
// read its database.
const Path = "/snapshots"

// maxReply bounds what is read of an answer, in bytes.
const maxReply = 1 << 20

// Handler makes a snapshot of src for each POST. The query says which label
// the name begins with and in which directory (absolute) it goes; the answer
// is the Info of the snapshot, or a text with status 500.
func Handler(src Source) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			http.Error(w, "want POST", http.StatusMethodNotAllowed)
			return
		}
		info, err := Save(r.Context(), src, r.FormValue("dir"), r.FormValue("label"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(info) // The client sees a cut answer.
	})
}

// Ask has the server that listens on a unix socket make a snapshot. If nobody
// listens there the error is a *net.OpError of dialing.
func Ask(ctx context.Context, socket, dir, label string) (info Info, err error) {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
	u := url.URL{Scheme: "http", Host: "skiff", Path: Path, RawQuery: url.Values{"dir": {dir}, "label": {label}}.Encode()}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), nil)
	if err != nil {
		return info, fmt.Errorf("ask the server for a snapshot: %w", err)
	}
	reply, err := client.Do(request)
	if err != nil {
		return info, fmt.Errorf("ask the server for a snapshot: %w", err)
	}
	defer func() { err = errors.Join(err, reply.Body.Close()) }()
	body, err := io.ReadAll(io.LimitReader(reply.Body, maxReply))
	switch {
	case err != nil:
		return info, fmt.Errorf("read the server's answer: %w", err)
	case reply.StatusCode == http.StatusNotFound:
		return info, errors.New("the skiff that is running keeps no SQLite datastore here")
	case reply.StatusCode != http.StatusOK:
		return info, errors.New(string(bytes.TrimSpace(body)))
	}
	if err := json.Unmarshal(body, &info); err != nil {
		return info, fmt.Errorf("read the server's answer: %w", err)
	}
	return info, nil
}
