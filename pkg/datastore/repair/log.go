package repair

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// LogDamaged reports whether the write-ahead log of a database that nobody has
// open holds a commit behind its first invalid frame. SQLite takes that frame
// for the log's end and says nothing. After a power cut it is: then frames that
// nobody has synced may be there in any selection. But if only the process has
// ended, every frame was there, and committed changes are missing.
func LogDamaged(path string) (damaged bool, err error) {
	wal, err := os.Open(path + "-wal")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at write-ahead log: %w", err)
	}
	defer func() { err = errors.Join(err, wal.Close()) }()
	l := logReader{wal: wal, order: binary.LittleEndian}
	header := make([]byte, walHeaderSize)
	if _, err := io.ReadFull(wal, header); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return false, nil // never used
	} else if err != nil {
		return false, fmt.Errorf("read write-ahead log %s: %w", wal.Name(), err)
	}
	size := int(binary.BigEndian.Uint32(header[8:]))
	if binary.BigEndian.Uint32(header)&1 == 1 {
		l.order = binary.BigEndian
	}
	sum := checksum{order: l.order}
	sum.add(header[:24])
	if binary.BigEndian.Uint32(header)&^1 != 0x377f0682 || !validPageSize(size) || !sum.is(header[24:]) {
		// A header is written whole, and nothing behind it before it is.
		return true, nil
	}
	l.frame = make([]byte, walFrameSize+size)
	salt := string(header[16:24])
	valid := true
	for at := int64(walHeaderSize); ; at += int64(len(l.frame)) {
		ok, err := l.read(at, &sum)
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read write-ahead log %s: %w", wal.Name(), err)
		}
		ours := string(l.frame[8:16]) == salt
		switch {
		case valid:
			valid = ok && ours
		case ok && ours && binary.BigEndian.Uint32(l.frame[4:]) > 0:
			// What a change that was undone has left has no commit.
			return true, nil
		}
		// The next frame has to fit what this one says of itself.
		sum.s0, sum.s1 = binary.BigEndian.Uint32(l.frame[16:]), binary.BigEndian.Uint32(l.frame[20:])
	}
}

// logReader reads the frames of a log.
type logReader struct {
	wal   *os.File
	order binary.ByteOrder
	frame []byte
}

// read reads a frame, and reports whether it fits the sum of all before it.
func (l *logReader) read(at int64, sum *checksum) (bool, error) {
	if _, err := l.wal.ReadAt(l.frame, at); err != nil {
		return false, err
	}
	sum.add(l.frame[:8])
	sum.add(l.frame[walFrameSize:])
	return sum.is(l.frame[16:]), nil
}
