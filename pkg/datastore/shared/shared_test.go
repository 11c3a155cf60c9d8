package shared

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/k3s-io/kine/pkg/server"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestErrorsGetTheirCode(t *testing.T) {
	pg := func(code, constraint string) error {
		return fmt.Errorf("exec: %w", &pgconn.PgError{Code: code, ConstraintName: constraint})
	}
	my := func(number uint16, message string) error {
		return fmt.Errorf("exec: %w", &mysql.MySQLError{Number: number, Message: message})
	}
	p, m := Postgres(), MySQL(true)
	for name, c := range map[string]struct {
		dialect Dialect
		err     error
		kind    kind
		code    codes.Code
	}{
		"postgres conflict":       {p, pg("23505", "kine_name_prev_revision_uindex"), kindConflict, codes.Aborted},
		"postgres filled":         {p, pg("23505", "kine_pkey"), kindRetry, codes.Unavailable},
		"postgres deadlock":       {p, pg("40P01", ""), kindRetry, codes.Unavailable},
		"postgres disk full":      {p, pg("53100", ""), kindFull, codes.ResourceExhausted},
		"postgres connections":    {p, pg("53300", ""), kindDown, codes.Unavailable},
		"postgres shutdown":       {p, pg("57P01", ""), kindDown, codes.Unavailable},
		"postgres standby":        {p, pg("25006", ""), kindReadOnly, codes.Unavailable},
		"postgres I/O":            {p, pg("58030", ""), kindDown, codes.Unavailable},
		"postgres permission":     {p, pg("42501", ""), kindRefused, codes.PermissionDenied},
		"postgres zero byte":      {p, pg("22021", ""), kindInvalid, codes.InvalidArgument},
		"postgres no table":       {p, pg("42P01", ""), kindOther, codes.Internal},
		"postgres connection cut": {p, io.ErrUnexpectedEOF, kindDown, codes.Unavailable},
		"mysql conflict":          {m, my(1062, "Duplicate entry 'x-0' for key 'kine_name_prev_revision_uindex'"), kindConflict, codes.Aborted},
		"mysql filled":            {m, my(1062, "Duplicate entry '7' for key 'PRIMARY'"), kindRetry, codes.Unavailable},
		"mysql deadlock":          {m, my(1213, ""), kindRetry, codes.Unavailable},
		"mysql disk full":         {m, my(1021, ""), kindFull, codes.ResourceExhausted},
		"mysql table full":        {m, my(1114, ""), kindFull, codes.ResourceExhausted},
		"mysql engine full":       {m, my(1030, `Got error 28 "No space left on device" from storage engine InnoDB`), kindFull, codes.ResourceExhausted},
		"mysql shutdown":          {m, my(1053, ""), kindDown, codes.Unavailable},
		"mysql read only":         {m, my(1290, ""), kindReadOnly, codes.Unavailable},
		"mysql connection cut":    {m, mysql.ErrInvalidConn, kindDown, codes.Unavailable},
		"mysql syntax":            {m, my(1064, ""), kindOther, codes.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.dialect.kind(c.err); got != c.kind {
				t.Errorf("kind %d, want %d", got, c.kind)
			}
			if got := status.Code(c.dialect.wire("test", c.err)); got != c.code {
				t.Errorf("code %v, want %v", got, c.code)
			}
		})
	}
	if got := p.wire("test", server.ErrCompacted); !errors.Is(got, server.ErrCompacted) {
		t.Errorf("kine's own error became %v", got)
	}
	if got := status.Code(p.wire("test", fmt.Errorf("query: %w", context.DeadlineExceeded))); got != codes.DeadlineExceeded {
		t.Errorf("the end of the client's time is %v", got)
	}
}

func TestRangesOfKeys(t *testing.T) {
	for _, c := range []struct {
		key, end, where string
		args            []any
	}{
		{"/a/", "/a0", `kv.name >= ? AND kv.name < ?`, []any{"/a/", "/a0"}},
		{"/a/b\x00", "/a0", `kv.name > ? AND kv.name < ?`, []any{"/a/b", "/a0"}},
		{"/a/b", "/a/b\x00", `kv.name >= ? AND kv.name <= ?`, []any{"/a/b", "/a/b"}},
		{"/a", "\x00", `kv.name >= ? AND kv.name <> 'compact_rev_key'`, []any{"/a"}},
		{"\x00", "\x00", `kv.name >= ? AND kv.name <> 'compact_rev_key'`, []any{""}},
		{"d", "e", `kv.name >= ? AND kv.name < ?`, []any{"d", "e"}},
	} {
		q := newQuery(c.key, c.end)
		if d := cmp.Diff([]any{c.where, c.args}, []any{q.where, q.args}); d != "" {
			t.Errorf("%q to %q (-want +got):\n%s", c.key, c.end, d)
		}
	}
}

func TestNumberedParameters(t *testing.T) {
	p, m := Postgres(), MySQL(false)
	const s = `SELECT ? WHERE id > ? AND id < ?`
	if got, want := p.sql(s), `SELECT $1 WHERE id > $2 AND id < $3`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := m.sql(s); got != s {
		t.Errorf("got %s, want %s", got, s)
	}
}

func TestHolesAreNoticed(t *testing.T) {
	for _, c := range []struct {
		current, since, pos int64
		unsettled           bool
	}{
		{10, 0, 10, false},
		{12, 2, 10, false},
		{12, 1, 10, true}, // 11 or 12 is missing; 12 is the newest.
		{10, 0, 12, false},
		{100, 30, 10, true}, // more than are counted
	} {
		var scan stateScan
		scan.current.Int64, scan.since.Int64 = c.current, c.since
		if got := scan.state(c.pos).unsettled; got != c.unsettled {
			t.Errorf("%+v: unsettled %v", c, got)
		}
	}
}

func event(revision int64, key string, create, remove bool) *server.Event {
	return &server.Event{Create: create, Delete: remove, KV: &server.KeyValue{Key: key, ModRevision: revision}}
}

func TestCountsFollowTheEvents(t *testing.T) {
	var c counts
	c.reset(10)
	if _, ok := c.at("/a/", "/a0", 10); ok {
		t.Error("a count that nobody has made is known")
	}
	c.learn("/a/", "/a0", 10, 5)
	c.note([]*server.Event{
		event(11, "/a/1", true, false), event(12, "/b/1", true, false), event(13, "/a/1", false, false),
		event(14, "gap-14", false, true), event(15, "/a/2", true, false), event(16, "/a/1", false, true),
	})
	for _, want := range [][2]int64{{10, 5}, {11, 6}, {15, 7}, {16, 6}, {14, 6}, {10, 5}} {
		if got, ok := c.at("/a/", "/a0", want[0]); !ok || got != want[1] {
			t.Errorf("at revision %d there are %d (%v), want %d", want[0], got, ok, want[1])
		}
	}
	if _, ok := c.at("/a/", "/a0", 9); ok {
		t.Error("a count from before the first change is known")
	}
	// What is forgotten is not guessed.
	for i := range int64(2 * keptChanges) {
		c.note([]*server.Event{event(17+i, "/a/x", i%2 == 0, i%2 == 1)})
	}
	if _, ok := c.at("/a/", "/a0", 17+2*keptChanges); ok {
		t.Error("a count whose changes are forgotten is known")
	}
	c.learn("/a/", "/a0", 12, 1)
	if _, ok := c.at("/a/", "/a0", 17+2*keptChanges); ok {
		t.Error("an old count was learned")
	}
}

func TestFeedKeepsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f feed
		f.init()
		f.jump(5)
		ctx, cancel := context.WithCancel(t.Context())
		s, pos := f.subscribe("/a/", "/a0")
		slowest, _ := f.subscribe("", "")
		if pos != 5 {
			t.Errorf("subscribed at %d, want 5", pos)
		}
		go s.run(ctx)
		go slowest.run(ctx)
		waited := make(chan error, 1)
		go func() { waited <- f.wait(ctx, 8) }()
		for i := int64(6); i <= 8; i++ { // Nobody takes them yet.
			f.publish([]*server.Event{event(i, fmt.Sprintf("/%c/k", 'a'+i%2), true, false)})
		}
		if err := <-waited; err != nil {
			t.Error(err)
		}
		var got []int64
		for len(got) < 2 {
			for _, e := range <-s.out {
				got = append(got, e.KV.ModRevision)
			}
			synctest.Wait()
		}
		if d := cmp.Diff([]int64{6, 8}, got); d != "" {
			t.Errorf("revisions (-want +got):\n%s", d)
		}
		f.jump(20)
		queued := 0
		for events := range slowest.out {
			queued += len(events)
		}
		if queued != 3 {
			t.Errorf("%d events came before the end, want 3", queued)
		}
		if err := <-slowest.errc; !errors.Is(err, server.ErrCompacted) {
			t.Errorf("who has missed events is told %v", err)
		}
		short, stop := context.WithTimeout(ctx, time.Second)
		defer stop()
		if err := f.wait(short, 21); status.Code(err) != codes.Unavailable {
			t.Errorf("waiting in vain: %v", err)
		}
		cancel()
		synctest.Wait()
	})
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var alone pace
		alone.init(false)
		if got := alone.next(true, false); got != busy {
			t.Errorf("after a foreign event: %v, want %v", got, busy)
		}
		for range 20 {
			alone.next(false, false)
		}
		if got := alone.next(false, false); got != idle {
			t.Errorf("at rest: %v, want %v", got, idle)
		}

		var p pace
		p.init(true)
		p.listening.Store(true)
		want := func(when string, d time.Duration, found, told bool) {
			t.Helper()
			if got := p.next(found, told); got != d {
				t.Errorf("%s: %v, want %v", when, got, d)
			}
		}
		want("in the beginning", deaf, false, false)
		time.Sleep(silence + time.Second)
		want("when all tell", idleListening, true, true)
		want("when one did not tell", deaf, true, false)
		time.Sleep(silence + time.Second)
		want("later", idleListening, false, false)
		p.listening.Store(false)
		want("without a connection", deaf, false, false)
	})
}
