package edge

import (
	"bufio"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// plainWriter is the http.ResponseWriter of a plain connection.
type plainWriter struct {
	p       *plain
	w       *bufio.Writer
	own     http.Header
	h       http.Header // own, or that of the backend's answer
	head    bool        // no body follows, whatever the head says
	wrote   bool
	chunked bool
	left    int64 // of the body, if not chunked
}

func (a *plainWriter) reset(p *plain, head bool) {
	own := a.own
	if own == nil {
		own = http.Header{}
	}
	clear(own)
	*a = plainWriter{p: p, w: p.out, own: own, h: own, head: head}
}

// Header implements http.ResponseWriter.
func (a *plainWriter) Header() http.Header { return a.h }

// WriteHeader implements http.ResponseWriter.
func (a *plainWriter) WriteHeader(status int) {
	if a.wrote {
		return
	}
	if status < 200 {
		a.line(status)
		a.fields()
		_, _ = a.w.WriteString("\r\n")
		_ = a.w.Flush()
		return
	}
	a.wrote = true
	a.head = a.head || status == http.StatusNoContent || status == http.StatusNotModified
	if n, err := strconv.ParseInt(a.length(), 10, 64); err == nil {
		a.left = n
	} else {
		delete(a.h, "Content-Length")
		a.chunked = !a.head
	}
	delete(a.h, "Transfer-Encoding")
	delete(a.h, "Connection")
	a.line(status)
	a.fields()
	if _, ok := a.h["Date"]; !ok {
		_, _ = a.w.WriteString("Date: ")
		_, _ = a.w.WriteString(time.Now().UTC().Format(http.TimeFormat))
		_, _ = a.w.WriteString("\r\n")
	}
	if a.p.keep = a.p.keep && !a.p.one.closing.Load(); !a.p.keep {
		_, _ = a.w.WriteString("Connection: close\r\n")
	}
	if a.chunked {
		_, _ = a.w.WriteString("Transfer-Encoding: chunked\r\n")
	}
	_, _ = a.w.WriteString("\r\n")
}

func (a *plainWriter) length() string {
	if v := a.h["Content-Length"]; len(v) == 1 {
		return v[0]
	}
	return ""
}

func (a *plainWriter) line(status int) {
	if status == http.StatusOK {
		_, _ = a.w.WriteString("HTTP/1.1 200 OK\r\n")
		return
	}
	_, _ = a.w.WriteString("HTTP/1.1 " + strconv.Itoa(status) + " " + http.StatusText(status) + "\r\n")
}

func (a *plainWriter) fields() {
	for name, values := range a.h {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			continue
		}
		for _, v := range values {
			a.field(name, v)
		}
	}
}

func (a *plainWriter) field(name, value string) {
	if !validValue(value) {
		return
	}
	_, _ = a.w.WriteString(name)
	_, _ = a.w.WriteString(": ")
	_, _ = a.w.WriteString(value)
	_, _ = a.w.WriteString("\r\n")
}

// Write implements http.ResponseWriter.
func (a *plainWriter) Write(b []byte) (int, error) {
	if !a.wrote {
		a.WriteHeader(http.StatusOK)
	}
	switch {
	case a.head || len(b) == 0:
		return len(b), nil
	case a.chunked:
		_, _ = a.w.WriteString(strconv.FormatInt(int64(len(b)), 16))
		_, _ = a.w.WriteString("\r\n")
		_, _ = a.w.Write(b)
		_, err := a.w.WriteString("\r\n")
		return len(b), err
	case int64(len(b)) > a.left:
		return 0, http.ErrContentLength
	}
	a.left -= int64(len(b))
	return a.w.Write(b)
}

// FlushError is what http.ResponseController calls.
func (a *plainWriter) FlushError() error {
	if !a.wrote {
		a.WriteHeader(http.StatusOK)
	}
	return a.w.Flush()
}

// finish writes what is left; an error means that the connection is of no use any more.
func (a *plainWriter) finish() error {
	if !a.wrote {
		a.h["Content-Length"] = []string{"0"}
		a.WriteHeader(http.StatusOK)
	}
	if a.chunked {
		_, _ = a.w.WriteString("0\r\n")
		for _, announced := range a.h["Trailer"] {
			name := http.CanonicalHeaderKey(announced)
			for _, v := range a.h[name] {
				a.field(name, v)
			}
		}
		for name, values := range a.h {
			if trailer, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
				for _, v := range values {
					a.field(trailer, v)
				}
			}
		}
		_, _ = a.w.WriteString("\r\n")
	} else if a.left > 0 && !a.head {
		_ = a.w.Flush()
		return io.ErrUnexpectedEOF
	}
	return a.w.Flush()
}
