package sqlite

import "github.com/mattn/go-sqlite3"

// LibraryVersion is the version of the SQLite that is linked in, as it says
// itself.
func LibraryVersion() string {
	version, _, _ := sqlite3.Version()
	return version
}
