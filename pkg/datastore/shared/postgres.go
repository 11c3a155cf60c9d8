package shared

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// channel is where servers tell each other of revisions.
const channel = "kine"

// Postgres is the dialect of PostgreSQL.
func Postgres() Dialect {
	return Dialect{
		numbered: true, returning: true, casts: true,
		// The tombstone that is seen and the one that is locked differ if it has
		// just been compacted: then nothing is written.
		createSQL: `WITH last AS (SELECT id FROM kine WHERE name = $1 ORDER BY id DESC LIMIT 1),
			gone AS (SELECT id FROM kine WHERE id = (SELECT id FROM last) AND deleted <> 0 FOR KEY SHARE) ` + insertSQL + `
			SELECT CAST($1 AS TEXT), 1, 0, 0, COALESCE((SELECT id FROM gone), 0), CAST($2 AS BIGINT), CAST($3 AS BYTEA), NULL
			WHERE (SELECT COUNT(*) FROM last) = (SELECT COUNT(*) FROM gone)`,
		create:  func(name string, lease int64, value []byte) []any { return []any{name, lease, value} },
		fillSQL: `INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value, old_value) VALUES `,
		compactSQL: `DELETE FROM kine AS kv USING (
			SELECT newer.prev_revision AS id FROM kine AS newer
				WHERE newer.id > ? AND newer.id <= ? AND newer.prev_revision <> 0 AND newer.name <> 'compact_rev_key'
			UNION
			SELECT gone.id FROM kine AS gone
				WHERE gone.id >= ? AND gone.id <= ? AND gone.deleted <> 0 AND gone.id < (SELECT MAX(id) FROM kine)
			) AS ks WHERE kv.id = ks.id`,
		sizeSQL:   `SELECT pg_total_relation_size('kine')`,
		notifySQL: `SELECT pg_notify('` + channel + `', ?)`,
		classify:  postgresKind,
	}
}

// postgresKind sorts SQLSTATE codes, by class where that is enough.
func postgresKind(err error) (kind, bool) {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || len(e.Code) != 5 {
		return kindOther, false
	}
	switch {
	case e.Code == "23505" && strings.HasSuffix(e.ConstraintName, "_pkey"):
		// A gap was filled between taking the revision and writing the row.
		return kindRetry, true
	case e.Code == "23505":
		return kindConflict, true
	case e.Code == "53100":
		return kindFull, true
	case e.Code == "42501", e.Code[:2] == "28":
		return kindRefused, true
	case e.Code[:2] == "40":
		return kindRetry, true
	case e.Code == "25006":
		return kindReadOnly, true
	case e.Code[:2] == "08", e.Code[:2] == "53", e.Code[:2] == "57", e.Code[:2] == "58":
		return kindDown, true
	case e.Code[:2] == "22", e.Code == "54000":
		return kindInvalid, true
	}
	return kindOther, true
}

// ListenPostgres returns Options.Listen, on a connection of its own.
func ListenPostgres(config *pgx.ConnConfig) func(ctx context.Context, up func(), committed func(revision int64)) error {
	return func(ctx context.Context, up func(), committed func(revision int64)) (err error) {
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		defer func() {
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = conn.Close(closing)
		}()
		if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		up()
		for {
			if err := next(ctx, conn, committed); err != nil {
				return err
			}
		}
	}
}

// next waits for one notification. When none comes the connection is tried: a
// server whose machine is gone says nothing either.
func next(ctx context.Context, conn *pgx.Conn, committed func(revision int64)) error {
	const quiet, answer = 15 * time.Second, 5 * time.Second
	waiting, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	n, err := conn.WaitForNotification(waiting)
	if err == nil {
		// Anybody may notify; what is no number is not ours.
		if revision, err := strconv.ParseInt(n.Payload, 10, 64); err == nil {
			committed(revision)
		}
		return nil
	}
	if ctx.Err() != nil || waiting.Err() == nil {
		return fmt.Errorf("wait for notifications: %w", err)
	}
	trying, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	if err := conn.Ping(trying); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	return nil
}
