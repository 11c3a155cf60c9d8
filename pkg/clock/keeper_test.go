package clock

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"skiff/pkg/status"
)

var (
	built = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	today = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	epoch = time.Unix(5, 0)
)

// fake is a clock that runs with the bubble's and can be set.
type fake struct {
	begin  time.Time // of the bubble
	offset time.Duration
	synced bool
	locked bool // nobody may set it
	poke   chan struct{}
}

func newFake(shows time.Time) *fake {
	f := &fake{begin: time.Now(), poke: make(chan struct{})}
	f.offset = shows.Sub(f.begin)
	return f
}

func (f *fake) Now() time.Time         { return time.Now().Add(f.offset) }
func (f *fake) Elapsed() time.Duration { return time.Since(f.begin) }
func (f *fake) Synchronized() bool     { return f.synced }

func (f *fake) Set(t time.Time) error {
	if f.locked {
		return errors.New("operation not permitted")
	}
	f.offset = time.Until(t)
	return nil
}

func (f *fake) Watch(ctx context.Context, set func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.poke:
			set()
		}
	}
}

// jump sets a running clock, as a person does.
func (f *fake) jump(to time.Time) {
	synctest.Wait() // for a look that is due at this very moment
	f.offset = time.Until(to)
	f.poke <- struct{}{}
	synctest.Wait()
}

type bench struct {
	*Keeper
	t     *testing.T
	clock *fake
	file  string
	notes *status.NoteBook
}

// start runs a keeper with the clock until the test ends.
func start(t *testing.T, f *fake, onDisk string) *bench {
	t.Helper()
	b := &bench{t: t, clock: f, file: filepath.Join(t.TempDir(), "clock"), notes: &status.NoteBook{}}
	if onDisk != "" {
		if err := os.WriteFile(b.file, []byte(onDisk), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.Keeper = New(Options{File: b.file, Built: built, Source: f, Notes: b.notes, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	synctest.Wait()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bench) known(want time.Time) {
	b.t.Helper()
	synctest.Wait() // for a look that is due at this very moment
	if got := b.Floor(); got.Sub(want).Abs() > time.Minute {
		b.t.Errorf("known is %s, want %s", got, want)
	}
}

func (b *bench) kept(want time.Time) {
	b.t.Helper()
	synctest.Wait()
	got, err := read(b.file)
	if err != nil || got.Sub(want).Abs() > time.Minute {
		b.t.Errorf("on disk is %s (%v), want %s", got, err, want)
	}
}

// says checks that the notes mention the words, in any order; none means that
// there are no notes.
func (b *bench) says(words ...string) {
	b.t.Helper()
	var all []string
	for _, n := range b.notes.List() {
		all = append(all, n.Message)
	}
	text := strings.Join(all, "\n")
	if len(words) == 0 && text != "" {
		b.t.Errorf("the notes say %q", text)
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			b.t.Errorf("the notes say %q, want %q in it", text, w)
		}
	}
}

func TestOrdinaryClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newFake(today), today.Add(-3*time.Hour).Format(time.RFC3339))
		b.known(today)
		b.kept(today.Add(-3 * time.Hour)) // not worth a write
		if !b.Settled() {
			t.Error("a clock that nobody has set is not settled")
		}
		time.Sleep(25 * time.Hour)
		b.known(today.Add(25 * time.Hour))
		b.kept(today.Add(21 * time.Hour)) // when it lagged behind by half a day
		b.says()
	})
}

func TestYearsInABox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newFake(today), built.Format(time.RFC3339))
		b.known(built) // for all one knows the clock has gone mad
		time.Sleep(settled + time.Second)
		b.known(today.Add(time.Hour))
		b.says()
	})
}

func TestBootsIn1970(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(epoch)
		b := start(t, f, today.Format(time.RFC3339))
		b.known(today)
		if got := f.Now(); got.Before(today) || b.Settled() || b.Earlier().Before(today) {
			t.Errorf("the clock shows %s, what begins now begins at %s", got, b.Earlier())
		}
		b.says("1970-01-01 00:00:05", "set to the last known time")
		time.Sleep(2 * settled)
		b.says()
	})
}

func TestBootsIn1970InAContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(epoch)
		f.locked = true
		b := start(t, f, "\x00\x00") // as some file systems leave it
		b.known(built)
		if b.Settled() {
			t.Error("1970 is settled")
		}
		b.says("shows 1970-01-01", "has been 2026-11-01")
		time.Sleep(48 * time.Hour)
		b.known(built) // 1970 is not believed after any time

		next := b.Jumped()
		f.jump(today) // a time server is reached
		select {
		case <-next:
		default:
			t.Error("nobody was told of the jump")
		}
		b.says("set forward by", "days, to 2027-03-01")
		time.Sleep(settled + time.Second)
		b.known(today.Add(settled))
		time.Sleep(settled)
		b.says()
	})
}

func TestJumpAheadAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(today)
		b := start(t, f, "")
		time.Sleep(2 * time.Hour)
		wrong := today.AddDate(5, 0, 0)
		f.jump(wrong)
		time.Sleep(10 * time.Minute)
		b.known(today.Add(2 * time.Hour))
		if got := b.Earlier(); got.Sub(today.Add(130*time.Minute)).Abs() > time.Minute {
			t.Errorf("what begins now begins at %s", got)
		}
		f.jump(today.Add(130 * time.Minute))
		b.known(today.Add(130 * time.Minute))
		if b.Settled() {
			t.Error("settled after two jumps")
		}
		time.Sleep(2 * settled)
		if !b.Settled() || b.Earlier().Sub(f.Now()).Abs() > time.Second {
			t.Error("not settled after two hours")
		}
	})
}

// TestWrongForALongTime has the clock years ahead for so long that it is
// believed; when it is put right, that is believed after a day, or at once if
// it comes from a time server.
func TestWrongForALongTime(t *testing.T) {
	for _, synced := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(today.AddDate(5, 0, 0))
			b := start(t, f, "")
			time.Sleep(2 * settled)
			b.known(today.AddDate(5, 0, 0).Add(2 * settled))
			f.synced = synced
			f.jump(today)
			if !synced {
				b.known(today.AddDate(5, 0, 0).Add(2 * settled))
				b.says("set back by", "has been 2032-03-01")
				time.Sleep(believed + settled)
			}
			b.known(f.Now())
			if got, err := read(b.file); err != nil || f.Now().Sub(got) > writeEvery {
				t.Errorf("on disk is %s (%v) at %s", got, err, f.Now())
			}
		})
	}
}

func TestServersTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(built.Add(-time.Hour))
		f.locked = true
		b := start(t, f, "")
		b.Heard("10.0.0.1:6443", today)
		b.known(today)
		b.says("behind that of the server 10.0.0.1:6443")
		f.jump(today)
		b.Heard("10.0.0.1:6443", today.Add(2*time.Second))
		b.Heard("10.0.0.1:6443", today.Add(-3*24*time.Hour))
		b.known(today)
		b.says("3 days ahead of that of the server")
	})
}

func TestUnreadableFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newFake(today), "yesterday\n")
		b.known(built)
		time.Sleep(settled + time.Second)
		b.kept(today.Add(settled))
	})
}

// TestRealClock: the kernel lets itself be asked.
func TestRealClock(t *testing.T) {
	m := machine{}
	if m.Elapsed() <= 0 {
		t.Error("no time has passed since the boot")
	}
	_ = m.Synchronized()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := m.Watch(ctx, func() { t.Error("somebody has set the clock") }); err != nil {
		t.Error(err)
	}
}
