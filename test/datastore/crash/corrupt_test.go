package crash

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"skiff/test/datastore/crash/ledger"
	"skiff/test/datastore/crash/victim"
)

// filled is a directory with a store's files, and what is in them.
type filled struct {
	spec   victim.Spec
	ledger *ledger.Ledger
	page   int // size of a page
}

// fillStore makes a store with live, changed, removed and large keys. Without
// a clean stop, its newest writes are in the log only.
func fillStore(t *testing.T, clean bool) filled {
	t.Helper()
	f := filled{spec: place(t, fastDir(t)), ledger: ledger.New(), page: 1024}
	load := ledger.Load{Ledger: f.ledger, Position: func() int { return 0 }}
	dir := f.spec.Dir
	if !clean {
		f.spec.Dir += "-running"
	}
	write := func(c *clientv3.Client, from, to int) error {
		load.Client = c
		for i := from; i < to; i++ {
			key := fmt.Sprintf("%sdefault/p%03d", ledger.Pods, i%300)
			size := 100 + 7*i%1500
			if i%10 == 0 {
				size = 9000
			}
			value := fmt.Appendf(nil, "%s %d %s", key, i, strings.Repeat("v", size))
			if i%13 == 0 && i > 300 {
				value = nil
			}
			if last, ok := f.ledger.Last(key); value == nil && (!ok || last.Deleted) {
				continue
			}
			if err := load.Change(t.Context(), key, value, 0); err != nil {
				return err
			}
		}
		return nil
	}
	if err := serve(t, f.spec, func(c *clientv3.Client) error { return write(c, 0, 500) }); err != nil {
		t.Fatal(err)
	}
	if !clean {
		err := serve(t, f.spec, func(c *clientv3.Client) error {
			if err := write(c, 500, 700); err != nil {
				return err
			}
			running := f.spec.Dir
			f.spec.Dir = dir
			return os.CopyFS(dir, os.DirFS(running))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// damage is something that happens to a file.
type damage struct {
	name string
	file string // beside the database: "" or "-wal"
	do   func(r *rand.Rand, data []byte, page int) []byte
}

// pages applies do to some pages after the first.
func pages(n int, do func(r *rand.Rand, page []byte)) func(*rand.Rand, []byte, int) []byte {
	return func(r *rand.Rand, data []byte, size int) []byte {
		for range n {
			at := (1 + r.IntN(len(data)/size-1)) * size
			do(r, data[at:at+size])
		}
		return data
	}
}

func zero(_ *rand.Rand, p []byte) { clear(p) }

func noise(r *rand.Rand, p []byte) {
	for i := range p {
		p[i] = byte(r.Uint32())
	}
}

func invert(_ *rand.Rand, p []byte) {
	for i := range p {
		p[i] ^= 0xff
	}
}

var damages = []damage{
	{"a page is zero", "", pages(1, zero)},
	{"a page is noise", "", pages(1, noise)},
	{"a page is inverted", "", pages(1, invert)},
	{"ten pages are zero", "", pages(10, zero)},
	{"half of the pages are noise", "", func(r *rand.Rand, data []byte, size int) []byte {
		return pages(len(data)/size/2, noise)(r, data, size)
	}},
	{"the header is zero", "", func(_ *rand.Rand, data []byte, _ int) []byte { clear(data[:100]); return data }},
	{"the first page is noise", "", func(r *rand.Rand, data []byte, size int) []byte { noise(r, data[:size]); return data }},
	{"the end is missing", "", func(r *rand.Rand, data []byte, size int) []byte { return data[:(1+r.IntN(len(data)/size-1))*size] }},
	{"everything is missing", "", func(*rand.Rand, []byte, int) []byte { return nil }},
	{"everything is zero", "", func(_ *rand.Rand, data []byte, _ int) []byte { clear(data); return data }},
	{"the log's header is zero", "-wal", func(_ *rand.Rand, data []byte, _ int) []byte { clear(data[:32]); return data }},
	// Not the last commit: what is missing at the end has left no trace.
	{"a part of the log is noise", "-wal", func(r *rand.Rand, data []byte, size int) []byte {
		pages(1, noise)(r, data[:len(data)*3/4], size)
		return data
	}},
	{"a part of the log is zero", "-wal", func(r *rand.Rand, data []byte, size int) []byte {
		pages(1, zero)(r, data[:len(data)*3/4], size)
		return data
	}},
}

// TestDamagedFile damages the files of a store that does not run. It must not
// start with less than there was and say nothing.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	seed := seed(t)
	for _, clean := range []bool{true, false} {
		f := fillStore(t, clean)
		for i, d := range damages {
			if clean && d.file != "" {
				continue // There is no log.
			}
			t.Run(fmt.Sprintf("%s, clean %v", d.name, clean), func(t *testing.T) {
				for n := range amount(4, 40) {
					f.tryDamaged(t, d, seed+uint64(100*i+n))
				}
			})
		}
	}
}

// tryDamaged starts a store on damaged files.
func (f filled) tryDamaged(t *testing.T, d damage, seed uint64) {
	t.Helper()
	dir := fastDir(t)
	defer os.RemoveAll(dir)
	s := victim.Spec{Dir: filepath.Join(dir, "db"), Socket: filepath.Join(dir, "s")}
	if err := os.CopyFS(s.Dir, os.DirFS(f.spec.Dir)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.Dir, "state.db") + d.file
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data = d.do(rand.New(rand.NewPCG(seed, 0)), data, f.page)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	var said journal
	var lost []error
	err = serveOptions(t, s.Options(slog.New(slog.NewTextHandler(&said, nil))), func(c *clientv3.Client) error {
		state, err := ledger.Read(t.Context(), c)
		if err != nil {
			return fmt.Errorf("an honest answer: %w", err)
		}
		lost = f.missing(state)
		if highest := f.ledger.Highest(0); len(lost) > 0 && state.Revision <= highest {
			t.Errorf("seed %#x: something is lost, but revisions go on from %d, and %d was known", seed, state.Revision, highest)
		}
		return nil
	})
	switch {
	case err != nil:
		refusal(t, seed, file, data, err)
	case len(lost) == 0:
	case !said.has("replaced"):
		t.Errorf("seed %#x: the store says nothing, but %v\nlog: %s", seed, errors.Join(lost...), said.String())
	default:
		f.reported(t, seed, said.String(), len(lost))
	}
}

// missing says which keys are not there, or at an older revision. That a value
// is what it was is not looked at: SQLite has no checksums.
func (f filled) missing(s ledger.State) []error {
	var lost []error
	for i := range 300 {
		key := fmt.Sprintf("%sdefault/p%03d", ledger.Pods, i)
		last, _ := f.ledger.Last(key)
		found, there := s.Keys[key]
		switch {
		case there && last.Deleted:
			lost = append(lost, fmt.Errorf("%s is there at revision %d, but was removed", key, found.Revision))
		case !there && !last.Deleted:
			lost = append(lost, fmt.Errorf("%s is gone", key))
		case there && found.Revision != last.Revision:
			lost = append(lost, fmt.Errorf("%s is at revision %d, not %d", key, found.Revision, last.Revision))
		}
	}
	return lost
}

var counts = regexp.MustCompile(`(\d+) keys (?:are gone|have gone back)`)

// reported compares what a salvage says about its losses with what is lost.
func (f filled) reported(t *testing.T, seed uint64, log string, lost int) {
	t.Helper()
	said := 0
	for _, m := range counts.FindAllStringSubmatch(log, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		said += n
	}
	unsure := strings.Contains(log, "more may be lost") || strings.Contains(log, "latest writes is damaged")
	if said < lost && !unsure {
		t.Errorf("seed %#x: %d keys are lost or have gone back, but the store says %d: %s", seed, lost, said, log)
	}
}

// refusal checks that the error of a store that does not start, or does not
// answer, helps, and that nothing has been made worse.
func refusal(t *testing.T, seed uint64, file string, data []byte, err error) {
	t.Helper()
	if strings.Contains(err.Error(), "an honest answer") {
		if status.Code(errors.Unwrap(err)) != codes.DataLoss && !strings.Contains(err.Error(), "DataLoss") {
			t.Errorf("seed %#x: LIST fails with %v, want DataLoss", seed, err)
		}
		return
	}
	database := strings.TrimSuffix(file, "-wal")
	if !strings.Contains(err.Error(), database) || !strings.Contains(err.Error(), "restore") {
		t.Errorf("seed %#x: the store did not start with %v, want the file and the way out", seed, err)
	}
	if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, data) {
		t.Errorf("seed %#x: the damaged file has been changed: %v", seed, err)
	}
}

// journal is what a store logs.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (r *journal) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(p)
}

func (r *journal) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.String()
}

func (r *journal) has(word string) bool { return strings.Contains(r.String(), word) }
