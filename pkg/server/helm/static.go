package helm

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff/internal/pause"
)

// staticFiles stands for the files of the static directory among what a chart
// needs.
var staticFiles = schema.GroupVersionResource{Resource: "static files"}

// StaticPrefix is where the server's port offers the static directory.
const StaticPrefix = "/static/"

// apiVariable is what K3s' users write for the server's own address.
const apiVariable = "%{KUBERNETES_API}%"

// staticPath returns the name of an archive below the static directory, if that
// is where spec.chart points: by K3s' URL of itself or by a path.
func (s *chartSpec) staticPath(dir string) (string, bool) {
	if s.Repo != "" {
		return "", false
	}
	for _, prefix := range []string{"https://" + apiVariable + StaticPrefix, "http://" + apiVariable + StaticPrefix, "file://" + dir + "/", dir + "/"} {
		if rest, ok := strings.CutPrefix(s.Chart, prefix); ok {
			return path.Clean(rest), true
		}
	}
	if strings.Contains(s.Chart, "://") || s.Chart == "" {
		return "", false
	}
	return path.Clean(strings.TrimPrefix(s.Chart, "/")), true
}

// readStatic reads an archive below the static directory, and nothing outside.
func readStatic(dir, name string) ([]byte, error) {
	file := filepath.Join(dir, name)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, unavailable(err, "the chart is to be read from %s, which cannot be opened", dir)
	}
	defer root.Close() //nolint:errcheck // Nothing was written.
	info, err := root.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, unavailable(nil, "there is no file %s; put the chart's archive (.tgz) there, or name a repository in spec.repo", file)
	case err != nil:
		return nil, unavailable(err, "%s cannot be read", file)
	case info.IsDir():
		return nil, unavailable(nil, "%s is a directory; make an archive of it with `helm package`", file)
	case info.Size() > maxArchive:
		return nil, unavailable(nil, "%s has %d MB, and charts may have %d", file, info.Size()>>20, maxArchive>>20)
	}
	b, err := root.ReadFile(name)
	if err != nil {
		return nil, unavailable(err, "%s cannot be read", file)
	}
	return b, nil
}

// Static serves the directory's files; it shows no listings.
func Static(dir string) http.Handler {
	files := http.StripPrefix(StaticPrefix, http.FileServer(http.Dir(dir)))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/") {
			http.NotFound(w, r)
			return
		}
		files.ServeHTTP(w, r)
	})
}

const (
	staticQuiet = 500 * time.Millisecond
	staticRetry = time.Minute
)

// watchStatic calls changed when files below dir may have changed, until ctx
// ends. The directory may come and go.
func watchStatic(ctx context.Context, dir string, changed func(), logger *slog.Logger) {
	for {
		err := watchStaticOnce(ctx, dir, changed)
		if ctx.Err() != nil {
			return
		}
		logger.Debug("directory of charts is not watched", "directory", dir, "error", err)
		if !pause.For(ctx, staticRetry) {
			return
		}
		changed()
	}
}

func watchStaticOnce(ctx context.Context, dir string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	add := func(top string) error {
		return filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return err
			}
			return w.Add(p)
		})
	}
	if err := add(dir); err != nil {
		return err
	}
	quiet := time.NewTimer(staticQuiet) // Something may have changed before the watch.
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.Errors:
			return err
		case ev, ok := <-w.Events:
			if !ok || ev.Name == dir && ev.Has(fsnotify.Remove|fsnotify.Rename) {
				return errors.New("the directory has gone")
			}
			if ev.Has(fsnotify.Create) {
				_ = add(ev.Name) // It may be gone again, which is an event, too.
			}
			quiet.Reset(staticQuiet)
		case <-quiet.C:
			changed()
		}
	}
}
