package repair

import (
	"context"
	"errors"

	"skiff/pkg/datastore/schema"
)

// Revision returns the highest revision that a database knows of.
func Revision(ctx context.Context, path string) (revision int64, err error) {
	db := open(path, "mode=ro&_busy_timeout=30000")
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.QueryRowContext(ctx, newestSQL, schema.CompactKey).Scan(&revision); err != nil {
		return 0, explain("read revision of", path, err)
	}
	return revision, nil
}
