package edge

import (
	"io"
	"maps"
	"net/http"
	"strings"
	"time"
)

// copy sends the backend's answer to the client.
func (x *exchange) copy(w http.ResponseWriter, resp *http.Response) {
	for _, v := range resp.Header["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			resp.Header.Del(strings.TrimSpace(name))
		}
	}
	h := w.Header()
	if a, ok := w.(*plainWriter); ok && len(h) == 0 {
		// Nothing was said yet: the backend's own map will do.
		h, a.h = resp.Header, resp.Header
	} else {
		maps.Copy(h, resp.Header)
	}
	if !x.simple {
		for _, name := range hopByHop {
			delete(h, name)
		}
	}
	maps.Copy(h, x.cors)
	x.edit(h)
	if _, ok := h["Content-Type"]; !ok {
		// net/http would guess one.
		h["Content-Type"] = nil
	}
	announced := len(resp.Trailer)
	for name := range resp.Trailer {
		h.Add("Trailer", name)
	}
	w.WriteHeader(resp.StatusCode)
	if err := x.body(w, resp); err != nil {
		// The client must see that the answer is cut short, so what there is goes out first; net/http knows this panic.
		_ = http.NewResponseController(w).Flush()
		abortHandler()
	}
	// Trailers are known now; those that were not announced need the prefix.
	if len(resp.Trailer) == announced {
		maps.Copy(h, resp.Trailer)
		return
	}
	for name, values := range resp.Trailer {
		h[http.TrailerPrefix+name] = values
	}
}

// body copies the body; one without a length is sent on as it comes.
func (x *exchange) body(w http.ResponseWriter, resp *http.Response) error {
	if resp.Body == http.NoBody {
		return nil
	}
	stream := resp.ContentLength < 0
	control := http.NewResponseController(w)
	if stream {
		// The head of an answer that comes bit by bit must not wait for its first bit.
		if err := control.Flush(); err != nil {
			return err
		}
	}
	buf := getBuffer()
	defer putBuffer(buf)
	for {
		n, err := resp.Body.Read(*buf)
		x.progress()
		if n > 0 {
			if _, err := w.Write((*buf)[:n]); err != nil {
				return err
			}
			if stream && err == nil {
				if err := control.Flush(); err != nil {
					return err
				}
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// upgrade joins client and backend after a 101.
func (x *exchange) upgrade(w http.ResponseWriter, r *http.Request, resp *http.Response) {
	backend, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		x.answer(w, r, http.StatusBadGateway)
		return
	}
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		x.answer(w, r, http.StatusNotImplemented)
		return
	}
	defer client.Close()
	_ = client.SetDeadline(time.Time{})
	x.edit(resp.Header)
	resp.Header.Set("Connection", "Upgrade")
	head := *resp
	head.Body = nil
	if err := head.Write(buffered); err != nil || buffered.Flush() != nil {
		return
	}
	in := client
	if n := buffered.Reader.Buffered(); n > 0 {
		early, _ := buffered.Reader.Peek(n)
		in = &rewound{Conn: client, head: early}
	}
	if !x.one.track(client) {
		return
	}
	defer x.one.untrack(client)
	pipe(in, backend, x.progress)
}

// abortHandler ends the request so that net/http breaks the connection, or resets the stream of HTTP/2.
func abortHandler() { panic(http.ErrAbortHandler) } //nolint:forbidigo // net/http has no other way.
