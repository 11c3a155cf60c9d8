package support

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// unpack reads an archive of Pack: contents by name.
func unpack(t *testing.T, data []byte) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o600 {
			t.Errorf("%s has mode %o", h.Name, h.Mode)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = string(content)
	}
}

func says(text string) func(context.Context, io.Writer) error {
	return func(_ context.Context, w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}
}

func TestPack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parts := []Part{
			{Name: "good", Write: says("hello geheim-1234\n")},
			{Name: "head", Limit: 10, Write: says("12345\n67890\n")},
			{Name: "tail", Limit: 10, Tail: true, Write: says("12345\n67890\n")},
			{Name: "broken", Write: func(_ context.Context, w io.Writer) error {
				fmt.Fprintln(w, "half")
				return errors.New("the disk said\nno")
			}},
			{Name: "missing", Write: func(context.Context, io.Writer) error { return errors.New("not there") }},
			{Name: "slow", Write: func(ctx context.Context, w io.Writer) error {
				fmt.Fprintln(w, "begun")
				<-ctx.Done()
				return ctx.Err()
			}},
			{Name: "deaf", Write: func(_ context.Context, w io.Writer) error {
				fmt.Fprintln(w, "begun")
				<-time.After(time.Hour)
				_, err := fmt.Fprintln(w, "too late")
				return err
			}},
			{Name: "panics", Write: func(context.Context, io.Writer) error { panic("oh") }},
			{Name: "binary", Binary: true, Write: says("geheim-1234\x00")},
			{Name: "large binary", Binary: true, Limit: 3, Write: says("12345")},
		}
		var b bytes.Buffer
		begin := time.Now()
		if _, err := Pack(t.Context(), &b, "x", "Hello of geheim-1234.\n", 1<<20, NewScrubber("geheim-1234"), parts); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 12*time.Second {
			t.Errorf("it took %s", took)
		}
		files := unpack(t, b.Bytes())
		index := files["x/index.txt"]
		delete(files, "x/index.txt")
		want := map[string]string{
			"x/good": "hello [redacted]\n", "x/head": "12345\n6789", "x/tail": "345\n67890\n", "x/broken": "half\n",
			"x/slow": "begun\n", "x/deaf": "begun\n", "x/binary": "geheim-1234\x00",
		}
		if diff := cmp.Diff(want, files); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		for _, line := range []string{
			"Hello of [redacted].", "head (cut: 2 bytes more)", "tail (cut: 2 bytes more)", "broken (incomplete: the disk said no)", "missing (incomplete: not there)",
			"slow (incomplete: context deadline exceeded)", "deaf (incomplete: no answer within 10s)", "panics (incomplete: panic: oh)", "large binary (cut: 5 bytes more) (incomplete: too long, left out)",
		} {
			if !strings.Contains(index, line+"\n") {
				t.Errorf("the index does not say %q:\n%s", line, index)
			}
		}
		<-time.After(time.Hour) // The deaf one may not outlive the test.
	})
}

// TestPackBounded packs more than fits.
func TestPackBounded(t *testing.T) {
	var parts []Part
	for i := range 5 {
		parts = append(parts, Part{Name: fmt.Sprint(i), Tail: i == 2, Write: says(strings.Repeat("x", 399) + "\n")})
	}
	parts = append(parts, Part{Name: "binary", Binary: true, Write: says("x")})
	var b bytes.Buffer
	results, err := Pack(t.Context(), &b, "x", "", 1000, NewScrubber(), parts)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	var sum int64
	for _, r := range results {
		got = append(got, fmt.Sprintf("%s %d-%d", r.Name, r.Size, r.Lost))
		sum += r.Size
	}
	if diff := cmp.Diff([]string{"0 400-0", "1 400-0", "2 200-200", "3 0-400", "4 0-400", "binary 0-1"}, got); diff != "" || sum != 1000 {
		t.Errorf("%d bytes, -want +got:\n%s", sum, diff)
	}
	if files := unpack(t, b.Bytes()); !strings.HasSuffix(files["x/2"], "\n") {
		t.Errorf("the tail has lost its end: %q", files["x/2"])
	}
}
