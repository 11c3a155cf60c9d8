package edge

import (
	"bufio"
	"bytes"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
)

// maxHeaders is how many lines a head may have to be parsed here.
const maxHeaders = 64

// requestHead is what parse makes of a head. header and url are the caller's, filled.
type requestHead struct {
	method, target, host string
	length               int64
	close                bool
	header               http.Header
	values               []string // memory for the values in header
	url                  *url.URL
}

// parse reads the head of a request, the empty line included, in the one form of it that cannot be read in two ways; what it refuses is not wrong,
// but for net/http to judge. That makes smuggling net/http's business, and this parser fast.
func (h *requestHead) parse(head []byte) bool {
	s := string(head)
	line, rest, _ := strings.Cut(s, "\r\n")
	var version string
	var ok1, ok2 bool
	h.method, version, ok1 = strings.Cut(line, " ")
	h.target, version, ok2 = strings.Cut(version, " ")
	if !ok1 || !ok2 || version != "HTTP/1.1" || !simpleMethod(h.method) || !h.parseTarget() {
		return false
	}
	f := fields{header: h.header, values: h.values}
	for rest != "\r\n" {
		name, value, more, ok := f.next(rest)
		if !ok {
			return false
		}
		rest = more
		switch name {
		case "Host":
			if h.host != "" || value == "" {
				return false
			}
			h.host = value
			continue
		case "Connection":
			switch strings.ToLower(value) {
			case "keep-alive":
			case "close":
				h.close = true
			default:
				return false
			}
			continue
		case "Transfer-Encoding", "Upgrade", "Expect", "Trailer", "Te", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Http2-Settings":
			return false
		}
		f.add(name, value)
	}
	h.values, h.length = f.values, f.length
	return h.host != "" && !f.twice
}

func simpleMethod(m string) bool {
	for i := range len(m) {
		if m[i] < 'A' || m[i] > 'Z' {
			return false
		}
	}
	return m != "" && len(m) < 20 && m != http.MethodConnect
}

// parseTarget fills the URL; a path in which anything is encoded goes through net/url.
func (h *requestHead) parseTarget() bool {
	t := h.target
	if t == "" || t[0] != '/' || strings.HasPrefix(t, "//") {
		return false
	}
	simple := true
	path := len(t)
	for i := range len(t) {
		switch c := t[i]; {
		case c <= ' ' || c >= 0x7f || c == '#':
			return false
		case path < len(t):
		case c == '?':
			path = i
		case !pathByte[c]:
			simple = false
		}
	}
	if simple && path != len(t)-1 {
		*h.url = url.URL{Path: t[:path]}
		if path < len(t) {
			h.url.RawQuery = t[path+1:]
		}
		return true
	}
	u, err := url.ParseRequestURI(t)
	if err != nil {
		return false
	}
	*h.url = *u
	return true
}

// fields reads header lines.
type fields struct {
	header http.Header
	values []string
	count  int
	length int64 // of Content-Length; 0 without
	sized  bool
	twice  bool // there was more than one Content-Length, or none that is a number
}

// next is the first line of s: the name in canonical form, and what follows the line. Lines of more than one line, or ended otherwise than by CRLF,
// or with any byte that has no business there, are refused.
func (f *fields) next(s string) (name, value, rest string, ok bool) {
	colon := -1
	for i := range len(s) {
		if c := s[i]; c == ':' {
			colon = i
			break
		} else if !tokenByte[c] {
			return "", "", "", false
		}
	}
	end := strings.IndexByte(s, '\r')
	if f.count++; colon <= 0 || end < colon || end+1 >= len(s) || s[end+1] != '\n' || f.count > maxHeaders {
		return "", "", "", false
	}
	value = strings.Trim(s[colon+1:end], " \t")
	if !validValue(value) {
		return "", "", "", false
	}
	return textproto.CanonicalMIMEHeaderKey(s[:colon]), value, s[end+2:], true
}

func (f *fields) add(name, value string) {
	if name == "Content-Length" {
		n, err := strconv.ParseUint(value, 10, 62)
		f.twice = f.twice || f.sized || err != nil || value[0] == '+'
		f.length, f.sized = int64(n), true
	}
	if have, ok := f.header[name]; ok {
		f.header[name] = append(have, value)
		return
	}
	f.values = append(f.values, value)
	n := len(f.values)
	f.header[name] = f.values[n-1 : n : n]
}

// answerMemory is used again for each answer of a plain connection.
type answerMemory struct {
	header http.Header
	values []string
	resp   http.Response
	body   sizedBody
	outer  answerBody
}

// parseAnswer reads the head of an answer whose end is known by its length, if it is all in r's buffer and none of it is about the
// connection alone; nil leaves r as it is, for net/http.
func parseAnswer(r *bufio.Reader, req *http.Request, m *answerMemory) *http.Response {
	header := m.header
	seen, err := r.Peek(r.Buffered())
	if err != nil {
		return nil
	}
	end := bytes.Index(seen, endOfHead)
	if end < 0 || !bytes.HasPrefix(seen, []byte("HTTP/1.1 ")) {
		return nil
	}
	s := string(seen[:end+len(endOfHead)])
	line, rest, _ := strings.Cut(s[len("HTTP/1.1 "):], "\r\n")
	if len(line) < 4 || line[3] != ' ' {
		return nil
	}
	status, err := strconv.ParseUint(line[:3], 10, 16)
	if err != nil || status < 200 {
		return nil
	}
	resp := &m.resp
	*resp = http.Response{Status: line, StatusCode: int(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header, Request: req}
	f := fields{header: header, values: m.values[:0]}
	clear(header)
	for rest != "\r\n" {
		name, value, more, ok := f.next(rest)
		if !ok {
			return nil
		}
		rest = more
		switch name {
		case "Connection":
			switch strings.ToLower(value) {
			case "keep-alive":
			case "close":
				resp.Close = true
			default:
				return nil
			}
			continue
		case "Keep-Alive":
			continue
		case "Transfer-Encoding", "Trailer", "Upgrade", "Te", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization":
			return nil
		}
		f.add(name, value)
	}
	bodiless := req.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
	if f.twice || !f.sized && !bodiless {
		return nil
	}
	_, _ = r.Discard(len(s))
	resp.ContentLength, resp.Body = f.length, http.NoBody
	if !f.sized && req.Method == http.MethodHead {
		resp.ContentLength = -1
	}
	if !bodiless && f.length > 0 {
		m.body = sizedBody{r: r, left: f.length}
		resp.Body = &m.body
	}
	m.values = f.values
	return resp
}
