// Package journal keeps encrypted records in one file that only grows at its
// end: what has changed is all that is written, and a power cut in the middle
// costs what was being written and nothing before it. It knows nothing of what
// is in the records. Start reading at Open.
//
// The file is a head (magic, salt) and records, each of them a length, a nonce
// and what AES-GCM makes of the content. The empty record is a commit: what
// follows the last one never happened. The key is derived from a secret of the
// caller's and the salt, so a file that is begun anew has a key of its own.
package journal

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"skiff/internal/atomicfile"
)

const (
	magic    = "skiff-offline-1\n"
	saltSize = 16
	headSize = int64(len(magic) + saltSize)
	// MaxRecord bounds the content of a record.
	MaxRecord = 9 << 20
	// writeAt is how much waits in memory for the next write.
	writeAt = 256 << 10
)

// Place is where a record lies in the file.
type Place struct {
	Offset int64
	Length uint32 // in the file, without the length itself
}

// Journal is an open file. It is not safe for concurrent use.
type Journal struct {
	path   string
	secret []byte

	file    *os.File
	aead    cipher.AEAD
	end     int64 // of the last commit
	written int64 // of what has been given to the kernel
	pending []byte
}

// Replayed says what Open found.
type Replayed struct {
	Records int
	Damaged int  // records that cannot be read any more
	Torn    bool // an unfinished write was at the end
	Foreign bool // the file was of another secret or no journal: it begins anew
}

// Open opens the journal, or makes it. replay is called with each committed
// record, oldest first; the content is valid during the call only.
func Open(path string, secret []byte, replay func(content []byte, at Place)) (*Journal, Replayed, error) {
	var found Replayed
	j := &Journal{path: path, secret: secret}
	file, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return j, found, j.begin(nil)
	}
	if err != nil {
		return nil, found, fmt.Errorf("open journal: %w", err)
	}
	j.file = file
	ok, err := j.readHead()
	if err == nil && ok {
		err = j.replay(replay, &found)
	}
	if err != nil {
		return nil, found, errors.Join(fmt.Errorf("read journal %s: %w", path, err), file.Close())
	}
	if !ok || found.Records == 0 {
		// Nothing in it can be read: most likely the node has a new key.
		found.Foreign = !ok || found.Damaged > 0
		return j, found, j.begin(nil)
	}
	j.written = j.end
	if err := file.Truncate(j.end); err != nil {
		return nil, found, errors.Join(fmt.Errorf("cut journal %s: %w", path, err), file.Close())
	}
	return j, found, nil
}

// readHead reports whether there is one.
func (j *Journal) readHead() (bool, error) {
	head := make([]byte, headSize)
	if _, err := j.file.ReadAt(head, 0); err != nil {
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		return false, err
	}
	if string(head[:len(magic)]) != magic {
		return false, nil
	}
	var err error
	j.aead, err = newCipher(j.secret, head[len(magic):])
	return true, err
}

func newCipher(secret, salt []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, secret, salt, magic, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// replay reads the records. One that cannot be deciphered is left out if the
// next ones can: the medium has lost it.
func (j *Journal) replay(fn func([]byte, Place), found *Replayed) error {
	info, err := j.file.Stat()
	if err != nil {
		return err
	}
	type record struct {
		content []byte
		at      Place
	}
	var batch []record
	damaged := 0
	r := bufio.NewReaderSize(io.NewSectionReader(j.file, headSize, info.Size()-headSize), 64<<10)
	j.end = headSize
	for at := headSize; ; {
		var length [4]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			break // The end, or of a file that grew without its content: cut below.
		}
		n := binary.LittleEndian.Uint32(length[:])
		if n < uint32(j.aead.Overhead()) || n > MaxRecord+64 { //nolint:gosec // A few bytes.
			break
		}
		sealed := make([]byte, n)
		if _, err := io.ReadFull(r, sealed); err != nil {
			break
		}
		place := Place{Offset: at + 4, Length: n}
		at += 4 + int64(n)
		content, err := j.aead.Open(sealed[:0], nil, sealed, nil)
		switch {
		case err != nil:
			damaged++
		case len(content) > 0:
			batch = append(batch, record{content, place})
		default:
			for _, b := range batch {
				fn(b.content, b.at)
			}
			found.Records += len(batch)
			found.Damaged += damaged
			batch, damaged, j.end = nil, 0, at
		}
	}
	if found.Records == 0 {
		found.Damaged += damaged
	}
	found.Torn = j.end < info.Size()
	return nil
}

// Size is that of the file, in bytes.
func (j *Journal) Size() int64 { return j.written + int64(len(j.pending)) }

// Append adds a record, which counts once Commit has returned.
func (j *Journal) Append(content []byte) (Place, error) {
	if len(content) == 0 || len(content) > MaxRecord {
		return Place{}, fmt.Errorf("append to journal: a record of %d bytes", len(content))
	}
	at := j.seal(content)
	if len(j.pending) < writeAt {
		return at, nil
	}
	return at, j.write()
}

func (j *Journal) seal(content []byte) Place {
	n := len(content) + j.aead.Overhead()
	at := Place{Offset: j.Size() + 4, Length: uint32(n)}               //nolint:gosec // Bounded by MaxRecord.
	j.pending = binary.LittleEndian.AppendUint32(j.pending, uint32(n)) //nolint:gosec // As above.
	j.pending = append(j.pending, j.aead.Seal(nil, nil, content, nil)...)
	return at
}

func (j *Journal) write() error {
	n, err := j.file.WriteAt(j.pending, j.written)
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	j.written += int64(n)
	j.pending = j.pending[:0]
	if cap(j.pending) > 2*writeAt {
		j.pending = nil
	}
	return nil
}

// Commit makes what was appended durable, all of it or nothing.
func (j *Journal) Commit() error {
	j.seal(nil)
	if err := j.write(); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(j.file.Fd())); err != nil {
		return fmt.Errorf("sync journal: %w", err)
	}
	j.end = j.written
	return nil
}

// Rollback forgets what was appended since the last commit.
func (j *Journal) Rollback() error {
	j.pending, j.written = nil, j.end
	if err := j.file.Truncate(j.end); err != nil {
		return fmt.Errorf("cut journal: %w", err)
	}
	return nil
}

// Read returns the content of a record.
func (j *Journal) Read(at Place) ([]byte, error) {
	if at.Length > MaxRecord+64 {
		return nil, fmt.Errorf("read journal: a record of %d bytes", at.Length)
	}
	sealed := make([]byte, at.Length)
	if at.Offset >= j.written {
		from := at.Offset - j.written
		if from+int64(at.Length) > int64(len(j.pending)) {
			return nil, errors.New("read journal: beyond its end")
		}
		copy(sealed, j.pending[from:])
	} else if _, err := j.file.ReadAt(sealed, at.Offset); err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	content, err := j.aead.Open(sealed[:0], nil, sealed, nil)
	if err != nil {
		return nil, fmt.Errorf("read journal: the record at %d is damaged: %w", at.Offset, err)
	}
	return content, nil
}

// Rewrite replaces the file by one with what fill appends to it. fill may read
// from the old one. Places change.
func (j *Journal) Rewrite(fill func(next *Journal) error) error {
	next := &Journal{path: j.path, secret: j.secret}
	if err := next.begin(fill); err != nil {
		return err
	}
	old := j.file
	*j = *next
	if old != nil {
		return old.Close()
	}
	return nil
}

// begin makes a new file with what fill appends, and puts it in the place of
// what is there.
func (j *Journal) begin(fill func(*Journal) error) (err error) {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // Never fails.
	if j.aead, err = newCipher(j.secret, salt); err != nil {
		return fmt.Errorf("make journal: %w", err)
	}
	tmp := j.path + ".new"
	file, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("make journal: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close(), os.Remove(tmp))
		}
	}()
	j.end, j.written, j.pending = 0, 0, append([]byte(magic), salt...)
	old := j.file
	j.file = file
	if fill != nil {
		if err := fill(j); err != nil {
			return err
		}
	}
	if err := j.Commit(); err != nil {
		return err
	}
	if err := os.Rename(tmp, j.path); err != nil {
		return fmt.Errorf("make journal: %w", err)
	}
	if old != nil { // What could not be read.
		_ = old.Close()
	}
	return atomicfile.SyncDir(filepath.Dir(j.path))
}

// Close closes the file. What was not committed is lost.
func (j *Journal) Close() error {
	if err := j.file.Close(); err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}
