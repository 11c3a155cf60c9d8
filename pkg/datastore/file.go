package datastore

import (
	"strings"

	"skiff/pkg/datastore/sqlite"
)

// File returns the SQLite database that Open uses for an endpoint and a
// directory, for those who make copies of it. For other databases ok is false.
func File(endpoint, dir string) (path string, ok bool) {
	scheme, rest, _ := strings.Cut(endpoint, "://")
	if scheme != "" && scheme != "sqlite" {
		return "", false
	}
	return sqlite.Path(dir, rest), true
}
