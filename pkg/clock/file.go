package clock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"skiff/internal/atomicfile"
)

// read returns the time in the file; a file that is not there, or has been
// emptied by a power cut, holds the zero time.
func read(path string) (time.Time, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read the last known time: %w", err)
	}
	text := strings.Trim(string(data), "\x00 \r\n\t")
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the last known time in %s: %w", path, err)
	}
	return t, nil
}

func write(path string, t time.Time) error {
	if err := atomicfile.Write(path, []byte(t.UTC().Format(time.RFC3339)+"\n"), 0o644); err != nil {
		return fmt.Errorf("write the last known time: %w", err)
	}
	return nil
}

// LastKnown is the last known time that a file holds, as a Keeper wrote it; zero
// if there is none.
func LastKnown(file string) (time.Time, error) { return read(file) }
