package repair

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"os"
)

// logHeader is the beginning of a write-ahead log, or what can be told of it.
type logHeader struct {
	size  int    // of a page
	salt  []byte // in every frame of this log; frames with another are older
	sum   checksum
	sound bool
}

// readLog notes which pages the log has in a newer version. As in SQLite its
// end is the first frame that does not fit the one before. What was committed
// behind that frame goes to beyond: each frame has to fit what the one before
// says of itself.
func (m *image) readLog() error {
	if m.wal == nil {
		return nil
	}
	h, err := m.readLogHeader()
	if err != nil || h.size == 0 {
		return err
	}
	m.pageSize = h.size
	frame := make([]byte, walFrameSize+h.size)
	pending := make(map[uint32]int64)
	sum, valid := h.sum, h.sound
	for at := int64(walHeaderSize); ; at += int64(len(frame)) {
		if _, err := m.wal.ReadAt(frame, at); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		n, commit := binary.BigEndian.Uint32(frame), binary.BigEndian.Uint32(frame[4:]) > 0
		ours := bytes.Equal(frame[8:16], h.salt) && n > 0 && n <= maxImagePages
		sum.add(frame[:8])
		sum.add(frame[walFrameSize:])
		fits := ours && sum.is(frame[16:])
		m.logCut = m.logCut || !valid && ours
		valid = valid && fits
		sum.s0, sum.s1 = binary.BigEndian.Uint32(frame[16:]), binary.BigEndian.Uint32(frame[20:])
		if !fits {
			continue
		}
		if pending[n] = at + walFrameSize; !commit {
			continue
		}
		to := &m.overlay
		if !valid {
			if to = &m.beyond; m.beyond == nil {
				m.beyond = maps.Clone(m.overlay)
			}
		}
		maps.Copy(*to, pending)
		clear(pending)
	}
}

// readLogHeader returns a size of 0 if there is no log to read.
func (m *image) readLogHeader() (h logHeader, err error) {
	header := make([]byte, walHeaderSize)
	if n, err := io.ReadFull(m.wal, header); n < len(header) {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return h, nil // shorter than a header: never used
		}
		return h, err
	}
	kind := binary.BigEndian.Uint32(header)
	h = logHeader{size: int(binary.BigEndian.Uint32(header[8:])), salt: header[16:24], sum: checksum{order: binary.LittleEndian}}
	if kind&1 == 1 {
		h.sum.order = binary.BigEndian
	}
	h.sum.add(header[:24])
	h.sound = kind&^1 == 0x377f0682 && validPageSize(h.size) && h.sum.is(header[24:])
	if h.sound {
		return h, nil
	}
	m.logCut = true
	h.sum.order = binary.LittleEndian // that of every machine we run on
	if h.size, err = pageSizeOf(m.file); err != nil || h.size == 0 {
		return h, err
	}
	// The first frame cannot be checked now, but the second says which it is of.
	second := make([]byte, walFrameSize)
	if _, err := m.wal.ReadAt(second, walHeaderSize+int64(walFrameSize+h.size)); err != nil {
		h.size = 0 // there is none
		return h, nil
	}
	h.salt = second[8:16]
	return h, nil
}

// pageSizeOf reads the size of a page from a database's header, 0 if that is
// damaged.
func pageSizeOf(file *os.File) (int, error) {
	header := make([]byte, fileHeader)
	if _, err := file.ReadAt(header, 0); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(header[16:]))
	if n == 1 {
		n = maxPage
	}
	if string(header[:16]) != magic || !validPageSize(n) {
		return 0, nil
	}
	return n, nil
}
