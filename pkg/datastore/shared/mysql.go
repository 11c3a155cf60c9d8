package shared

import (
	"errors"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// MySQL is the dialect of MySQL and MariaDB; only the latter can return the
// row that an INSERT has written.
func MySQL(mariadb bool) Dialect {
	return Dialect{
		returning: mariadb,
		// A locking read sees what is committed when it has the lock.
		createSQL: insertSQL + ` SELECT ?, 1, 0, 0, COALESCE(last.id, 0), ?, ?, NULL FROM (SELECT 1 AS one) AS one
			LEFT JOIN (SELECT id, deleted FROM kine WHERE name = ? ORDER BY id DESC LIMIT 1 LOCK IN SHARE MODE) AS last ON 1 = 1
			WHERE last.id IS NULL OR last.deleted <> 0`,
		create: func(name string, lease int64, value []byte) []any { return []any{name, lease, value, name} },
		// A row that exists is a warning then, and there is nothing else that
		// could be wrong with constants.
		fillSQL: `INSERT IGNORE INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value, old_value) VALUES `,
		compactSQL: `DELETE kv FROM kine AS kv INNER JOIN (
			SELECT newer.prev_revision AS id FROM kine AS newer
				WHERE newer.id > ? AND newer.id <= ? AND newer.prev_revision <> 0 AND newer.name <> 'compact_rev_key'
			UNION
			SELECT gone.id FROM kine AS gone
				WHERE gone.id >= ? AND gone.id <= ? AND gone.deleted <> 0 AND gone.id < (SELECT MAX(id) FROM kine)
			) AS ks ON kv.id = ks.id`,
		sizeSQL: `SELECT SUM(data_length + index_length) FROM information_schema.TABLES
			WHERE table_schema = DATABASE() AND table_name = 'kine'`,
		classify: mysqlKind,
	}
}

// mysqlKind sorts the server's error numbers.
func mysqlKind(err error) (kind, bool) {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return kindOther, false
	}
	switch e.Number {
	case 1062: // duplicate entry
		if strings.Contains(e.Message, "PRIMARY") {
			return kindRetry, true // see postgresKind
		}
		return kindConflict, true
	case 1205, 1213: // lock wait timeout, deadlock
		return kindRetry, true
	case 1021, 1114: // disk full, table full
		return kindFull, true
	case 1030: // "Got error 28 …": a storage engine's error, 28 is ENOSPC
		if strings.Contains(e.Message, "error 28 ") {
			return kindFull, true
		}
		return kindDown, true
	case 1044, 1045, 1142, 1143, 1227: // access denied
		return kindRefused, true
	case 1040, 1053, 1077, 1152, 1158, 1159, 1160, 1161, 1184, 1203, 1226, 1317, 1927, 3169:
		// too many connections, stopping, aborted, killed
		return kindDown, true
	case 1290, 1792, 1836:
		return kindReadOnly, true
	case 1153, 1264, 1300, 1366, 1406: // too large, out of range, bad string, too long
		return kindInvalid, true
	}
	return kindOther, true
}
