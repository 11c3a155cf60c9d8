package support

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func TestScrub(t *testing.T) {
	pin := strings.Repeat("0a", 32)
	s := NewScrubber("geheim-1234", "with \"quotes\"", "two lines\nof-a-password", "abc")
	for _, c := range []struct{ name, in, want string }{
		{"nothing", "pod shop/till-0 is ready", "pod shop/till-0 is ready"},
		{"known", "error: geheim-1234 was refused", "error: [redacted] was refused"},
		{"known in base64", "auth Z2VoZWltLTEyMzQ= sent", "auth [redacted] sent"},
		{"known with quotes, in JSON", `{"m":"said with \"quotes\""}`, `{"m":"said [redacted]"}`},
		{"one line of two", "of-a-password", "[redacted]"},
		{"too short to be known", "abc def", "abc def"},
		{"join token", "--server x --token K10" + pin + "::server:abcdef x", "--server x --token [redacted] x"},
		{"join token in prose", "use K10" + pin + "::node:abcdef, now", "use K10" + pin + "::[redacted], now"},
		{"bootstrap token", "token id abcdef.0123456789abcdef end", "token id [redacted] end"},
		{"web token", "Bearer eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJl.c2lnbmF0dXJl-_x", "Bearer [redacted]"},
		{"url", "postgres://shop:pa:s/s@db.local/skiff?x=1", "postgres://shop:[redacted]@db.local/skiff?x=1"},
		{"url without", "https://192.168.1.4:6443/readyz", "https://192.168.1.4:6443/readyz"},
		{"assignment", "DB_PASSWORD=hunter2 PORT=5", "DB_PASSWORD=[redacted] PORT=5"},
		{"yaml", "    password: hunter2", "    password: [redacted]"},
		{"json", `{"password":"hunter 2","port":5}`, `{"password":[redacted],"port":5}`},
		{"escaped json", `body="{\"password\":\"hunter2\",\"port\":5}"`, `body="{\"password\":[redacted],\"port\":5}"`},
		{"header", "Authorization: Basic dXNlcjpwYXNz and more", "Authorization: [redacted] and more"},
		{"flag", "mysqld --root-password hunter2 --port 5", "mysqld --root-password [redacted] --port 5"},
		{"an event on a secret", `MountVolume failed: secret "till" not found`, `MountVolume failed: secret "till" not found`},
		{"key", "a\n-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\nb", "a\n[redacted]\nb"},
		{"key in one line", `k: "-----BEGIN PRIVATE KEY-----\nMHcCAQEE\n-----END PRIVATE KEY-----\n" b`, `k: "[redacted]\n" b`},
		{"certificate in base64", "certificate-authority-data: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUJl", "certificate-authority-data: [redacted]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := strings.TrimSuffix(string(s.Bytes([]byte(c.in))), "\n"); got != c.want {
				t.Errorf("%q\nbecomes %q\nwant    %q", c.in, got, c.want)
			}
		})
	}
}

// TestScrubAcrossWrites hands a secret over in two pieces.
func TestScrubAcrossWrites(t *testing.T) {
	var b bytes.Buffer
	w := NewScrubber("geheim-1234").Writer(&b)
	for _, piece := range []string{"x gehe", "im-12", "34 y\nz"} {
		if _, err := w.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil || b.String() != "x [redacted] y\nz\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}

// TestScrubLongLine has a secret where a line is cut.
func TestScrubLongLine(t *testing.T) {
	const secret = "geheim-1234567890"
	for cut := range len(secret) + 1 {
		line := strings.Repeat("x ", (longestLine-cut)/2) + strings.Repeat("x", (longestLine-cut)%2) + secret + " and more\nnext\n"
		got := string(NewScrubber(secret).Bytes([]byte(line)))
		if strings.Contains(got, "gehe") || !strings.HasSuffix(got, "next\n") || len(got) > longestLine+100 {
			t.Errorf("cut after %d characters of the secret: …%q", cut, got[max(0, len(got)-60):])
		}
	}
}

// TestKeyWithoutEnd does not hide the rest of a log.
func TestKeyWithoutEnd(t *testing.T) {
	var text strings.Builder
	text.WriteString("-----BEGIN RSA PRIVATE KEY-----\n")
	for i := range 2 * longestKey {
		fmt.Fprintf(&text, "line %d\n", i)
	}
	got := string(NewScrubber().Bytes([]byte(text.String())))
	if strings.Contains(got, "line 10\n") || !strings.HasSuffix(got, fmt.Sprintf("line %d\n", 2*longestKey-1)) {
		t.Errorf("%.80q … %q", got, got[max(0, len(got)-40):])
	}
}
