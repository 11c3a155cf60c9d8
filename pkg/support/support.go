// Package support packs what somebody needs who is asked for help with a skiff:
// logs, configuration, rules, states, sizes, from a machine whose skiff may run,
// hang or be dead. Nothing secret gets into the archive, nothing is changed,
// and everything is bounded in size and time. The package asks others by their
// sockets and files only; it knows no component. Start reading at Bundle, then
// Options.parts; scrub.go is what keeps secrets out.
package support

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Defaults of a Part and of the whole.
const (
	DefaultLimit = 20 << 20 // bytes of the archive, unpacked
	partLimit    = 1 << 20
	partTime     = 10 * time.Second
	atOnce       = 4 // parts
)

// Part is one file of the archive.
type Part struct {
	Name  string        // in the archive, with slashes
	Limit int64         // bytes; default 1 MiB
	Time  time.Duration // default 10 s
	// Tail keeps the end of what is too long instead of its beginning.
	Tail bool
	// Binary is written as it is, or not at all if it is too long: what has no
	// lines can neither be cut nor be looked through for secrets.
	Binary bool
	// Write writes the content. It may write on after an error, and may be
	// given up when its time is over.
	Write func(ctx context.Context, w io.Writer) error
}

// Result says what became of a Part.
type Result struct {
	Name  string
	Size  int64 // in the archive
	Lost  int64 // bytes that were too many
	Took  time.Duration
	Error error // why there is less than there might be
}

// Bundle writes an archive of everything to w; see Pack. What must not be shown
// is learnt before anything is collected.
func Bundle(ctx context.Context, w io.Writer, name, head string, limit int64, o Options) ([]Result, error) {
	return bundle(ctx, w, name, head, limit, o, &api{url: o.API, paths: o.Paths})
}

func bundle(ctx context.Context, w io.Writer, name, head string, limit int64, o Options, a *api) ([]Result, error) {
	scrub := NewScrubber(HostSecrets(o)...)
	// An error is kept, and is why nothing of the cluster is shown.
	_ = a.learn(ctx, scrub)
	return Pack(ctx, w, name, head, limit, scrub, o.parts(a, scrub))
}

// Pack writes an archive of the parts to w, a tar file compressed with gzip,
// which every system can open. Its first file is an index that names all
// others and says what is missing. The directory in it is called name.
func Pack(ctx context.Context, w io.Writer, name, head string, limit int64, scrub *Scrubber, parts []Part) ([]Result, error) {
	collected := collect(ctx, scrub, parts)
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
	results := make([]Result, len(parts))
	left := limit
	for i := range collected {
		c := &collected[i]
		c.fit(left, parts[i])
		left -= c.Size
		results[i] = c.Result
	}
	zip, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	archive, now := tar.NewWriter(zip), time.Now()
	add := func(file string, content []byte) error {
		err := archive.WriteHeader(&tar.Header{Name: name + "/" + file, Size: int64(len(content)), Mode: 0o600, ModTime: now, Format: tar.FormatPAX})
		if err == nil {
			_, err = archive.Write(content)
		}
		return err
	}
	if err := add("index.txt", scrub.Bytes([]byte(index(head, results)))); err != nil {
		return nil, fmt.Errorf("write archive: %w", err)
	}
	for i, c := range collected {
		if len(c.content) == 0 && c.Error != nil {
			continue // The index says why.
		}
		if err := add(parts[i].Name, c.content); err != nil {
			return nil, fmt.Errorf("write archive: %w", err)
		}
	}
	if err := errors.Join(archive.Close(), zip.Close()); err != nil {
		return nil, fmt.Errorf("write archive: %w", err)
	}
	return results, nil
}

// collected is what a Part has written.
type collected struct {
	Result

	content []byte
}

// collect runs the parts, a few at a time, each within its own time.
func collect(ctx context.Context, scrub *Scrubber, parts []Part) []collected {
	out := make([]collected, len(parts))
	next := make(chan int)
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for i := range next {
				out[i] = run(ctx, scrub, parts[i])
			}
		})
	}
	for i := range parts {
		next <- i
	}
	close(next)
	workers.Wait()
	return out
}

// run runs one part. What does not return in time, such as a read from a disk
// that hangs, is left behind: the process is about to end.
func run(ctx context.Context, scrub *Scrubber, p Part) collected {
	limit, within := p.Limit, p.Time
	if limit <= 0 {
		limit = partLimit
	}
	if within <= 0 {
		within = partTime
	}
	kept := &bounded{limit: limit, tail: p.Tail}
	var out io.Writer = kept
	flush := func() error { return nil }
	if !p.Binary {
		lines := scrub.Writer(kept)
		out, flush = lines, lines.Flush
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		err := guarded(ctx, p, out)
		done <- errors.Join(err, flush())
	}()
	c := collected{Result: Result{Name: p.Name}}
	select {
	case c.Error = <-done:
	case <-ctx.Done():
		// It has a moment to notice by itself.
		grace := time.NewTimer(time.Second)
		defer grace.Stop()
		select {
		case c.Error = <-done:
		case <-grace.C:
			c.Error = fmt.Errorf("no answer within %s", within)
		}
	}
	c.content, c.Lost = kept.close()
	c.Size, c.Took = int64(len(c.content)), time.Since(begin)
	return c
}

// guarded makes an error of a panic: one part that stumbles over what is
// broken must not take the others along.
func guarded(ctx context.Context, p Part, w io.Writer) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return p.Write(ctx, w)
}

// fit cuts the content to what is left of the whole archive.
func (c *collected) fit(left int64, p Part) {
	over := c.Size - max(left, 0)
	switch {
	case p.Binary && (c.Lost > 0 || over > 0):
		c.Lost += c.Size
		c.content = nil
		c.Error = errors.Join(c.Error, errors.New("too long, left out"))
	case over > 0 && p.Tail:
		c.content = c.content[over:]
		c.Lost += over
	case over > 0:
		c.content = c.content[:c.Size-over]
		c.Lost += over
	}
	c.Size = int64(len(c.content))
}

// index is the first file of an archive.
func index(head string, results []Result) string {
	var b bytes.Buffer
	b.WriteString(head + "\n")
	fmt.Fprintf(&b, "%10s  %8s  %s\n", "BYTES", "TOOK", "FILE")
	for _, r := range results {
		fmt.Fprintf(&b, "%10d  %8s  %s", r.Size, r.Took.Round(time.Millisecond), r.Name)
		if r.Lost > 0 {
			fmt.Fprintf(&b, " (cut: %d bytes more)", r.Lost)
		}
		if r.Error != nil {
			fmt.Fprintf(&b, " (incomplete: %s)", oneLine(r.Error.Error()))
		}
		b.WriteByte('\n')
	}
	return b.String()
}
