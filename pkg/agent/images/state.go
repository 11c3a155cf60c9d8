package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"skiff/internal/atomicfile"
)

// state remembers which archives have been imported, so that a start does not
// read gigabytes for nothing. Losing it costs time only.
type state struct {
	path  string
	Files map[string]entry `json:"files"` // by file name
}

type entry struct {
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	Images   []string  `json:"images"`
}

func loadState(path string, logger *slog.Logger) *state {
	s := &state{path: path}
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, s)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		logger.Warn("all image archives will be imported again", "error", err)
	}
	if s.Files == nil {
		s.Files = map[string]entry{}
	}
	return s
}

func (s *state) same(path string, info fs.FileInfo) bool {
	e, ok := s.Files[filepath.Base(path)]
	return ok && e.Size == info.Size() && e.Modified.Equal(info.ModTime())
}

func (s *state) images(path string) []string { return s.Files[filepath.Base(path)].Images }

func (s *state) record(path string, info fs.FileInfo, images []string) error {
	s.Files[filepath.Base(path)] = entry{Size: info.Size(), Modified: info.ModTime(), Images: images}
	for name := range s.Files {
		if _, err := os.Lstat(filepath.Join(filepath.Dir(path), name)); errors.Is(err, fs.ErrNotExist) {
			delete(s.Files, name)
		}
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	return atomicfile.Write(s.path, data, 0o600)
}
