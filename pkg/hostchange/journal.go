package hostchange

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"skiff/internal/atomicfile"
)

// Journal is a text file with a line for each change: kind, value and how it
// was before, with tabs in between. The installer, a shell script, appends to
// it as well. A line without its end was cut off by a loss of power, before
// what it says was done.
type Journal struct {
	path string
	boot string // "" for a journal that outlives the boot

	mu      sync.Mutex
	changes []Change
	known   map[string]bool
	torn    int64 // the size without what was cut off; -1 if nothing was
	dropped bool  // the file is of another boot
	// All from changes on is guarded by mu.
}

// bootKind is the first line of a journal of one boot.
const bootKind = "boot"

// limit is the size of a journal beyond which something else is wrong.
const limit = 4 << 20

func open(path, boot string) (*Journal, error) {
	j := &Journal{path: path, boot: boot, known: map[string]bool{}, torn: -1}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the journal of host changes: %w", err)
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("read the journal of host changes: %s has %d bytes, which cannot be right; look at it, and keep only lines that say something", path, info.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the journal of host changes: %w", err)
	}
	j.load(data)
	return j, nil
}

// load takes the content of a file. What makes no sense is not looked at: the
// file was damaged, or a person has written in it.
func (j *Journal) load(data []byte) {
	whole := bytes.LastIndexByte(data, '\n') + 1
	if whole < len(data) {
		j.torn = int64(whole)
	}
	text := string(data[:whole])
	if j.boot != "" {
		var of bool
		if text, of = strings.CutPrefix(text, Change{Kind: bootKind, Value: j.boot}.line()); !of {
			j.dropped = true
			return
		}
	}
	for line := range strings.Lines(text) {
		if c, ok := parse(strings.TrimSuffix(line, "\n")); ok {
			j.add(c)
		}
	}
}

func (j *Journal) add(c Change) bool {
	key := c.key()
	if j.known[key] {
		return false
	}
	j.known[key] = true
	j.changes = append(j.changes, c)
	return true
}

// key is what makes two changes the same: a setting is one, whatever it is set to.
func (c Change) key() string {
	value := c.Value
	if c.Kind == Sysctl {
		value, _, _ = strings.Cut(value, "=")
	}
	return string(c.Kind) + "\t" + value
}

func (j *Journal) list() []Change {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.changes)
}

func (j *Journal) record(changes []Change) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var text strings.Builder
	var fresh []Change
	seen := map[string]bool{}
	for _, c := range changes {
		if key := c.key(); !j.known[key] && !seen[key] {
			seen[key] = true
			fresh = append(fresh, c)
			text.WriteString(c.line())
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := j.write(text.String()); err != nil {
		return fmt.Errorf("write down in %s what is about to be changed: %w", j.path, err)
	}
	for _, c := range fresh {
		j.add(c)
	}
	return nil
}

// write appends to the file, and makes it if need be.
func (j *Journal) write(text string) error {
	if err := os.MkdirAll(filepath.Dir(j.path), 0o755); err != nil {
		return err
	}
	flags := os.O_WRONLY | os.O_APPEND | os.O_CREATE
	if j.dropped {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(j.path, flags, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && j.torn >= 0 && !j.dropped {
		err = f.Truncate(j.torn)
	}
	fresh := err == nil && info.Size() == 0
	if fresh && j.boot != "" {
		text = Change{Kind: bootKind, Value: j.boot}.line() + text
	}
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err == nil && j.boot == "" {
		err = f.Sync() // What a reboot undoes need not survive one.
	}
	err = errors.Join(err, f.Close())
	if err == nil && fresh && j.boot == "" {
		err = errors.Join(atomicfile.SyncDir(filepath.Dir(j.path)), atomicfile.SyncDir(filepath.Dir(filepath.Dir(j.path))))
	}
	if err == nil {
		j.torn, j.dropped = -1, false
	}
	return err
}

func (j *Journal) replace(changes []Change) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var text strings.Builder
	for _, c := range changes {
		text.WriteString(c.line())
	}
	if err := atomicfile.Write(j.path, []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("keep in the journal what has not been undone: %w", err)
	}
	j.changes, j.known, j.torn = nil, map[string]bool{}, -1
	for _, c := range changes {
		j.add(c)
	}
	return nil
}

func (j *Journal) remove() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the journal of host changes: %w", err)
	}
	j.changes, j.known, j.torn = nil, map[string]bool{}, -1
	return nil
}

// escapes lets a value hold what separates values.
var escapes = strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\x00", `\0`)

func (c Change) line() string {
	line := string(c.Kind) + "\t" + escapes.Replace(c.Value)
	if c.Before != "" {
		line += "\t" + escapes.Replace(c.Before)
	}
	return line + "\n"
}

func parse(line string) (Change, bool) {
	fields := strings.Split(line, "\t")
	if len(fields) < 2 || len(fields) > 3 || strings.Contains(line, "\x00") {
		return Change{}, false
	}
	for i, f := range fields {
		fields[i] = unescape(f)
	}
	c := Change{Kind: Kind(fields[0]), Value: fields[1]}
	if len(fields) == 3 {
		c.Before = fields[2]
	}
	return c, c.Kind != "" && c.Value != ""
}

func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch s[i] {
		case 't':
			b.WriteByte('\t')
		case 'n':
			b.WriteByte('\n')
		case '0':
			b.WriteByte(0)
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
