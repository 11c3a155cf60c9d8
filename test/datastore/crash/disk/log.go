// Package disk keeps the history of one directory as a sequence of file system
// operations, and builds from it what a power cut may leave of the directory.
// It knows nothing about who writes or what is written: the recorder fills a
// Log, a test asks for an Image. Start reading at Log; Build is the model of
// the disk.
package disk

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Kind says what an operation does.
type Kind uint8

// The operations that change a directory or make changes durable. A sync has a
// start and an end: what was written before its start is durable from its end
// on. After one that fails, the system takes what it could not write for
// written: no later sync tries again.
const (
	Create Kind = iota
	Mkdir
	Write
	Truncate
	Rename
	Link
	Unlink
	SyncStart
	SyncEnd
	SyncFail
)

func (k Kind) String() string {
	return [...]string{"create", "mkdir", "write", "truncate", "rename", "link", "unlink", "sync", "synced", "sync failed"}[k]
}

// Op is one operation. Paths are relative to the directory.
type Op struct {
	Kind Kind
	File int    // what is written, truncated, synced, created
	Path string // of Create, Mkdir, Rename, Link, Unlink
	To   string // of Rename, Link
	Off  int64  // of Write; the new size of Truncate
	Data []byte // of Write
	Sync int    // of SyncEnd: the position of its SyncStart
	Time time.Time
}

// Root is the number of the directory itself.
const Root = 0

// Log is the history of a directory. Its methods may be called at any time
// from any goroutine.
type Log struct {
	mu      sync.Mutex
	ops     []Op           // guarded by mu, as all below
	names   map[string]int // the directory as the running system sees it
	sizes   map[int]int64
	volatil map[int]bool // files whose content is shared memory
	files   int
	begin   int // not guarded: it stays as it is
}

// NewLog starts the history of a directory with what is in it now. That is
// taken to be durable.
func NewLog(dir string) (*Log, error) {
	l := &Log{names: map[string]int{".": Root}, sizes: map[int]int64{}, volatil: map[int]bool{}, files: 1}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			l.Create(name, true)
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file := l.Create(name, false)
		l.Write(file, 0, data)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read directory to record: %w", err)
	}
	for file := range l.files {
		l.EndSync(l.StartSync(file))
	}
	l.begin = len(l.ops)
	return l, nil
}

// Position is the number of operations so far. An answer that a client got
// before it asked for the position belongs before the operations to come.
func (l *Log) Position() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.ops)
}

// Begin is the position before the first operation that was recorded.
func (l *Log) Begin() int { return l.begin }

// Time returns when the last operation before a position happened.
func (l *Log) Time(position int) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if position == 0 {
		return time.Time{}
	}
	return l.ops[position-1].Time
}

// Syncs returns the positions at which syncs started.
func (l *Log) Syncs() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	var at []int
	for i, o := range l.ops {
		if o.Kind == SyncStart {
			at = append(at, i)
		}
	}
	return at
}

// Writes counts the writes to all files that have had a name.
func (l *Log) Writes(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	named := map[int]bool{}
	n := 0
	for _, o := range l.ops {
		switch {
		case o.Kind == Create && o.Path == name || o.Kind == Rename && o.To == name:
			named[o.File] = true
		case o.Kind == Write && named[o.File]:
			n++
		}
	}
	return n
}

// File returns the number of the file or directory that has a name now.
func (l *Log) File(name string) (int, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	file, ok := l.names[name]
	return file, ok
}

// Create adds a file or a directory.
func (l *Log) Create(name string, dir bool) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	file := l.files
	l.files++
	l.names[name] = file
	o := Op{Kind: Create, File: file, Path: name}
	if dir {
		o.Kind = Mkdir
	}
	l.add(o)
	return file
}

// Write adds a write. The data is kept.
func (l *Log) Write(file int, off int64, data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sizes[file] = max(l.sizes[file], off+int64(len(data)))
	l.add(Op{Kind: Write, File: file, Off: off, Data: data})
}

// Truncate adds a change of a file's size.
func (l *Log) Truncate(file int, size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sizes[file] = size
	l.add(Op{Kind: Truncate, File: file, Off: size})
}

// Extend makes a file at least so long, as fallocate does.
func (l *Log) Extend(file int, size int64) {
	l.mu.Lock()
	longer := size > l.sizes[file]
	l.mu.Unlock()
	if longer {
		l.Truncate(file, size)
	}
}

// Size returns the present size of a file.
func (l *Log) Size(file int) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sizes[file]
}

// Rename adds a change of name, over whatever has the new one.
func (l *Log) Rename(from, to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	file, ok := l.names[from]
	if !ok {
		return
	}
	delete(l.names, from)
	l.names[to] = file
	l.add(Op{Kind: Rename, File: file, Path: from, To: to})
}

// Link adds another name.
func (l *Log) Link(from, to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	file, ok := l.names[from]
	if _, taken := l.names[to]; !ok || taken {
		return
	}
	l.names[to] = file
	l.add(Op{Kind: Link, File: file, Path: from, To: to})
}

// Unlink adds the removal of a name.
func (l *Log) Unlink(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	file, ok := l.names[name]
	if !ok {
		return
	}
	delete(l.names, name)
	l.add(Op{Kind: Unlink, File: file, Path: name})
}

// StartSync adds the start of a sync and returns its position.
func (l *Log) StartSync(file int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(Op{Kind: SyncStart, File: file})
	return len(l.ops) - 1
}

// EndSync adds the end of the sync that started at a position.
func (l *Log) EndSync(start int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(Op{Kind: SyncEnd, File: l.ops[start].File, Sync: start})
}

// FailSync adds a sync that fails.
func (l *Log) FailSync(file int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(Op{Kind: SyncFail, File: file})
}

// Shared notes that a file's content is changed through shared memory, so that
// nothing is known about it.
func (l *Log) Shared(file int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.volatil[file] = true
}

func (l *Log) add(o Op) {
	o.Time = time.Now()
	l.ops = append(l.ops, o)
}

// Dump writes the operations before a position in words, the last ones only.
func (l *Log) Dump(position, last int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := map[int]string{Root: "."}
	var b strings.Builder
	for i, o := range l.ops[:min(position, len(l.ops))] {
		switch o.Kind {
		case Create, Mkdir:
			names[o.File] = o.Path
		case Rename:
			names[o.File] = o.To
		}
		if i >= position-last {
			fmt.Fprintf(&b, "%6d %-8s %s", i, o.Kind, names[o.File])
			switch o.Kind {
			case Write:
				fmt.Fprintf(&b, " %d+%d", o.Off, len(o.Data))
			case Truncate:
				fmt.Fprintf(&b, " to %d", o.Off)
			case SyncEnd:
				fmt.Fprintf(&b, " (from %d)", o.Sync)
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}
