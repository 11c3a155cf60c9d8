package token

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"skiff/internal/atomicfile"
)

// Password returns the node password that is kept in path, and makes one, mode
// 0600, if there is none. It is on the disk before it is returned: the cluster
// must not learn one that a power cut takes away.
func Password(path string) (Secret, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read node password: %w", err)
	}
	if text := strings.Trim(string(data), "\x00 \r\n\t"); text != "" {
		return Secret(text), nil
	}
	fresh, err := random()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("write node password: %w", err)
	}
	if err := atomicfile.Write(path, []byte(fresh.Reveal()+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write node password: %w", err)
	}
	return fresh, nil
}
