package support

import (
	"bytes"
	"encoding/base64"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// redacted stands in the place of a secret.
const redacted = "[redacted]"

// Scrubber takes secrets out of text, line by line: those it has been told of,
// in the ways in which they are written, and what looks like one. It is the
// last of several means. Those who write a part leave secrets out that they
// know the place of; the Scrubber finds the ones that a log or a message
// repeats. It is safe for concurrent use.
type Scrubber struct {
	mu    sync.RWMutex
	known map[string]bool
	exact *strings.Replacer
}

// NewScrubber returns one that knows these secrets.
func NewScrubber(secrets ...string) *Scrubber {
	s := &Scrubber{known: make(map[string]bool)}
	s.Add(secrets...)
	return s
}

// leastSecret is the length of the shortest text that is taken out wherever it
// stands: shorter ones are part of ordinary words.
const leastSecret = 5

// Add makes more secrets known.
func (s *Scrubber) Add(secrets ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, text := range secrets {
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); len(line) < leastSecret {
				continue
			}
			s.known[line] = true
			quoted := strconv.Quote(line)
			s.known[quoted[1:len(quoted)-1]] = true
			s.known[base64.StdEncoding.EncodeToString([]byte(line))] = true
		}
		if text = strings.TrimSpace(text); len(text) >= leastSecret {
			s.known[base64.StdEncoding.EncodeToString([]byte(text))] = true
			s.known[base64.StdEncoding.EncodeToString([]byte(text+"\n"))] = true
		}
	}
	// Of two that begin alike the longer one has to win.
	all := make([]string, 0, len(s.known))
	for text := range s.known {
		all = append(all, text)
	}
	slices.SortFunc(all, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	pairs := make([]string, 0, 2*len(all))
	for _, text := range all {
		pairs = append(pairs, text, redacted)
	}
	s.exact = strings.NewReplacer(pairs...)
}

// keyWords are what the names of secrets end in.
const keyWords = `password|passwd|passphrase|pwd|token|secret|api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|key-data|credentials?|authorization|cookie|pre-?shared-?key|psk`

// patterns are what looks like a secret, and what remains of it.
var patterns = []struct {
	is   *regexp.Regexp
	with string
}{
	// A join token.
	{regexp.MustCompile(`(K10[0-9a-fA-F]{64}::)[^\s"',;]+`), "${1}" + redacted},
	// A bootstrap token.
	{regexp.MustCompile(`\b[a-z0-9]{6}\.[a-z0-9]{16}\b`), redacted},
	// A JSON web token.
	{regexp.MustCompile(`eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*`), redacted},
	// User and password in a URL.
	{regexp.MustCompile(`(://[^/\s:@"']*):[^\s"']+@`), "${1}:" + redacted + "@"},
	// A private key in one line, and the base64 of anything in PEM.
	{regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----`), redacted},
	{regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/=]{16,}`), redacted},
	// password=… and the like, also as YAML, JSON, a header or a flag.
	{regexp.MustCompile(`(?i)((?:` + keyWords + `)\\?["']?\s*[:=]\s*)(?:\\?"[^"]*"|'[^']*'|(?:Bearer|Basic)\s+[^\s"',;]+|[^\s"',;{}\[\]]+)`), "${1}" + redacted},
	{regexp.MustCompile(`(?i)(--?(?:[\w-]*-)?(?:` + keyWords + `)\s+)[^\s"',;-][^\s"',;]*`), "${1}" + redacted},
}

var (
	keyBegins = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----`)
	keyEnds   = regexp.MustCompile(`-----END [A-Z ]*PRIVATE KEY-----`)
)

// Line returns a line without its secrets.
func (s *Scrubber) Line(line string) string {
	s.mu.RLock()
	exact := s.exact
	s.mu.RUnlock()
	line = exact.Replace(line)
	for _, p := range patterns {
		line = p.is.ReplaceAllString(line, p.with)
	}
	return line
}

// Bytes is a whole text without its secrets.
func (s *Scrubber) Bytes(text []byte) []byte {
	var b bytes.Buffer
	w := s.Writer(&b)
	_, err := w.Write(text)
	if err != nil || w.Flush() != nil {
		return nil // Neither of the two can fail here; and nothing is better than too much.
	}
	return b.Bytes()
}

// Writer returns a writer that hands lines on without their secrets. Whoever
// writes calls Flush at the end.
func (s *Scrubber) Writer(to io.Writer) *LineWriter { return &LineWriter{scrub: s, to: to} }

// longestLine bounds a line that is looked at as a whole; of a longer one the
// rest is dropped, since a cut may go through a secret.
const longestLine = 256 << 10

// longestKey is how many lines a private key may have: one without an end must
// not hide all that comes after it.
const longestKey = 400

// LineWriter is the writer of a Scrubber.
type LineWriter struct {
	scrub *Scrubber
	to    io.Writer

	rest  []byte
	skips bool // the rest of a line that is too long
	inKey int  // lines of a private key that may still come
}

// Write implements io.Writer.
func (w *LineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			w.keep(p)
			return n, nil
		}
		w.keep(p[:i])
		p = p[i+1:]
		if err := w.line(); err != nil {
			return 0, err
		}
	}
}

// keep adds to the line that has not ended yet.
func (w *LineWriter) keep(p []byte) {
	room := longestLine - len(w.rest)
	if len(p) > room {
		p, w.skips = p[:max(room, 0)], true
	}
	w.rest = append(w.rest, p...)
}

// line hands the line on that has ended.
func (w *LineWriter) line() error {
	line := string(w.rest)
	if w.skips {
		// What is at the very end may be the beginning of a secret.
		line = line[:strings.LastIndexAny(line[:len(line)-1], " \t,;:\"")+1] + "… (cut)"
	}
	w.rest, w.skips = w.rest[:0], false
	switch {
	case w.inKey > 0:
		if w.inKey--; keyEnds.MatchString(line) {
			w.inKey = 0
		}
		return nil
	case keyBegins.MatchString(line) && !keyEnds.MatchString(line):
		w.inKey = longestKey
		line = keyBegins.ReplaceAllString(line, redacted)
	}
	_, err := io.WriteString(w.to, w.scrub.Line(line)+"\n")
	return err
}

// Flush hands on what has no end of line.
func (w *LineWriter) Flush() error {
	if len(w.rest) == 0 {
		return nil
	}
	return w.line()
}
