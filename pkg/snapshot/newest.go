package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"skiff/internal/atomicfile"
	"skiff/pkg/datastore/repair"
)

// NewestDatabase extracts the database of the newest sound snapshot in dir to
// the new file to, for the opening of a damaged store. Snapshots that are
// damaged are passed over. If none is usable the error is a *NoneError. Info
// says which it was; the caller moves the revision on by Info.Jump.
func NewestDatabase(ctx context.Context, dir, to string) (Info, error) {
	list, err := List(dir)
	if err != nil {
		return Info{}, err
	}
	var errs []error
	for _, info := range list {
		got, err := extractDatabase(ctx, info.Path, to)
		if err == nil {
			return got, nil
		}
		if ctx.Err() != nil {
			return Info{}, err
		}
		errs = append(errs, err)
	}
	return Info{}, errors.Join(append([]error{&NoneError{Dir: dir}}, errs...)...)
}

// ExtractDatabase extracts the database of one snapshot to the new file to.
func ExtractDatabase(ctx context.Context, archive, to string) error {
	_, err := extractDatabase(ctx, archive, to)
	return err
}

// extractDatabase extracts the database of one snapshot.
func extractDatabase(ctx context.Context, archive, to string) (_ Info, err error) {
	info := Info{Name: filepath.Base(archive), Path: archive}
	tmp := to + ".extracted"
	if err := os.RemoveAll(tmp); err != nil {
		return info, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("take the database out of %s: %w", archive, errors.Join(err, os.RemoveAll(tmp)))
		}
	}()
	found := false
	m, err := readArchive(ctx, archive, func(f File, content io.Reader) error {
		if f.Name != databaseName {
			return nil
		}
		found = true
		return extract(tmp, f.Mode, content)
	})
	if err != nil {
		return info, err
	}
	if !found {
		return info, errors.New("it has no database")
	}
	if err := repair.Check(ctx, tmp); err != nil {
		return info, err
	}
	if err := os.Rename(tmp, to); err != nil {
		return info, err
	}
	if err := atomicfile.SyncDir(filepath.Dir(to)); err != nil {
		return info, err
	}
	return info.with(m), nil
}
