package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"

	"github.com/mattn/go-sqlite3"
)

const (
	// readers is how many connections answer reads at the same time. Each has
	// a page cache, and few readers let the write-ahead log be emptied.
	readers = 2

	// What bounds the page caches of connections, in KiB.
	readerCache = 512
	writerCache = 1024
	checkCache  = 128

	busyMilliseconds = 10_000
)

// conn is one connection to the database, with its prepared statements. One
// goroutine uses it at a time.
type conn struct {
	c     *sqlite3.SQLiteConn
	stmts map[string]*sqlite3.SQLiteStmt
}

// connect opens the database file with pragmas of the driver, such as
// "_query_only=1". While a connection is open no other process gets one: then
// the index of the write-ahead log can be in memory. As a file (state.db-shm)
// it would be written to the disk again and again, four times as much as all
// the rest of an idle node.
//
// Source: https://www.sqlite.org/vfs.html, "unix-excl".
func connect(path, params string) (*conn, error) {
	dsn := url.URL{Scheme: "file", Path: path, OmitHost: true, RawQuery: "vfs=unix-excl&" + params}
	c, err := (&sqlite3.SQLiteDriver{}).Open(dsn.String())
	if err != nil {
		return nil, err
	}
	return &conn{c: c.(*sqlite3.SQLiteConn), stmts: map[string]*sqlite3.SQLiteStmt{}}, nil
}

func (c *conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.c.Close())...)
}

func (c *conn) prepare(sql string) (*sqlite3.SQLiteStmt, error) {
	if s := c.stmts[sql]; s != nil {
		return s, nil
	}
	s, err := c.c.Prepare(sql)
	if err != nil {
		return nil, err
	}
	c.stmts[sql] = s.(*sqlite3.SQLiteStmt)
	return c.stmts[sql], nil
}

// exec runs a statement. The statement is kept.
func (c *conn) exec(sql string, args ...driver.NamedValue) (changes int64, err error) {
	s, err := c.prepare(sql)
	if err != nil {
		return 0, err
	}
	r, err := s.ExecContext(context.Background(), args)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// query calls row for every row. It returns an error unless all rows have been
// read; row's own error ends it.
func (c *conn) query(sql string, columns int, row func([]driver.Value) error, args ...driver.NamedValue) (err error) {
	s, err := c.prepare(sql)
	if err != nil {
		return err
	}
	rows, err := s.QueryContext(context.Background(), args)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	dest := make([]driver.Value, columns)
	for {
		switch err := rows.Next(dest); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := row(dest); err != nil {
			return err
		}
	}
}

// number reads a statement's only value.
func (c *conn) number(sql string, args ...driver.NamedValue) (n int64, err error) {
	err = c.query(sql, 1, func(v []driver.Value) error {
		n = integer(v[0])
		return nil
	}, args...)
	return n, err
}

// script runs statements that are not worth keeping.
func (c *conn) script(sql string) error {
	_, err := c.c.Exec(sql, nil)
	return err
}

// args numbers the arguments of a statement.
func args(values ...driver.Value) []driver.NamedValue {
	named := make([]driver.NamedValue, len(values))
	for i, v := range values {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return named
}

// integer is a column that may be NULL.
func integer(v driver.Value) int64 {
	n, _ := v.(int64)
	return n
}

// text is a column of type TEXT; K3s' databases may have keys as BLOBs.
func text(v driver.Value) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

// blob is a column of type BLOB that may be NULL.
func blob(v driver.Value) []byte {
	switch v := v.(type) {
	case []byte:
		return v
	case string:
		return []byte(v)
	}
	return nil
}

// pool is a set of connections for reading.
type pool struct {
	free   chan *conn
	closed chan struct{}
}

func openPool(path string, n int) (*pool, error) {
	p := &pool{free: make(chan *conn, n), closed: make(chan struct{})}
	for range n {
		c, err := connect(path, fmt.Sprintf("_query_only=1&_busy_timeout=%d&_cache_size=-%d", busyMilliseconds, readerCache))
		if err != nil {
			for len(p.free) > 0 {
				err = errors.Join(err, (<-p.free).close())
			}
			return nil, err
		}
		p.free <- c
	}
	return p, nil
}

// use lends a connection to fn.
func (p *pool) use(ctx context.Context, fn func(*conn) error) error {
	select {
	case c := <-p.free:
		defer func() { p.free <- c }()
		return fn(c)
	case <-ctx.Done():
		return ctx.Err()
	case <-p.closed:
		return errClosed
	}
}

// close waits for the connections that are lent, and closes them all.
func (p *pool) close() error {
	close(p.closed)
	var errs []error
	for range cap(p.free) {
		errs = append(errs, (<-p.free).close())
	}
	return errors.Join(errs...)
}
