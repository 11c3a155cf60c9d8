package repair

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

const (
	magic         = "SQLite format 3\x00"
	minPage       = 512
	maxPage       = 65536
	walHeaderSize = 32
	walFrameSize  = 24 // header of a frame; its page follows
	maxImagePages = 1 << 26
)

// image is the pages of a database as SQLite would see them if it opened the
// file: those of the file, replaced by what the write-ahead log has committed.
type image struct {
	file, wal *os.File // wal is nil if there is none
	pageSize  int
	usable    int // bytes of a page that the b-tree may use
	pages     uint32
	headerOK  bool
	overlay   map[uint32]int64 // where in wal the newest version of a page is
	logCut    bool             // the log goes on behind its first invalid frame
	// beyond is overlay with what was committed behind that frame.
	beyond map[uint32]int64
}

// openImage opens a database and its log, neither of which has to be sound.
func openImage(path string) (m *image, err error) {
	m = &image{overlay: make(map[uint32]int64)}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	if m.file, err = os.Open(path); err != nil {
		return m, err
	}
	m.wal, err = os.Open(path + "-wal")
	if errors.Is(err, fs.ErrNotExist) {
		m.wal, err = nil, nil
	}
	if err != nil {
		return m, err
	}
	if err := m.readLog(); err != nil {
		return m, fmt.Errorf("read write-ahead log: %w", err)
	}
	return m, m.size()
}

// size finds out how large pages are, and how many there are.
func (m *image) size() error {
	info, err := m.file.Stat()
	if err != nil {
		return err
	}
	if err := m.measure(info.Size()); err != nil {
		return err
	}
	m.pages = uint32(min(info.Size()/int64(m.pageSize), maxImagePages))
	for n := range m.overlay {
		m.pages = max(m.pages, n)
	}
	if m.pages == 0 {
		return errors.New("the file is empty")
	}
	return nil
}

// later is the image with what was committed behind the first invalid frame of
// the log, nil if there is nothing. It shares m's files.
func (m *image) later() (*image, error) {
	if m.beyond == nil {
		return nil, nil
	}
	l := *m
	l.overlay, l.beyond = m.beyond, nil
	return &l, l.size()
}

func (m *image) close() error {
	var err error
	if m.file != nil {
		err = m.file.Close()
	}
	if m.wal != nil {
		err = errors.Join(err, m.wal.Close())
	}
	return err
}

// measure finds out the size of a page: from the file's header, else from the
// log's, else by trying.
func (m *image) measure(size int64) error {
	header := make([]byte, 100)
	at, in := int64(0), m.file
	if offset, ok := m.overlay[1]; ok {
		at, in = offset, m.wal
	}
	if _, err := in.ReadAt(header, at); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	n := int(binary.BigEndian.Uint16(header[16:]))
	if n == 1 {
		n = maxPage
	}
	m.headerOK = string(header[:16]) == magic && validPageSize(n) && int(header[20]) <= n-480
	switch {
	case m.headerOK && (m.pageSize == 0 || m.pageSize == n):
		m.pageSize = n
		m.usable = n - int(header[20])
		if encoding := binary.BigEndian.Uint32(header[56:]); encoding > 1 {
			return fmt.Errorf("text encoding %d is not UTF-8", encoding)
		}
		return nil
	case m.pageSize == 0:
		m.pageSize = m.guessPageSize(size)
	}
	m.headerOK = false
	m.usable = m.pageSize
	if m.pageSize == 0 {
		return errors.New("nothing in it looks like a page of a database")
	}
	return nil
}

func validPageSize(n int) bool { return n >= minPage && n <= maxPage && n&(n-1) == 0 }

// guessPageSize returns the smallest size with which about as much of the file
// is valid pages as with any: a page also looks like the beginning of a larger
// one.
func (m *image) guessPageSize(size int64) int {
	valid := make(map[int]int)
	most := 0
	for n := minPage; n <= maxPage; n *= 2 {
		page := make([]byte, n)
		for at := int64(0); at+int64(n) <= size; at += int64(n) {
			if _, err := m.file.ReadAt(page, at); err != nil {
				continue
			}
			if p, err := parsePage(page, 0, n); err == nil && p.sound && len(p.cells) > 0 {
				valid[n] += n
			}
		}
		most = max(most, valid[n])
	}
	for n := minPage; n <= maxPage; n *= 2 {
		if most > 0 && valid[n] > most/4*3 {
			return n
		}
	}
	return 0
}

// page reads a page.
func (m *image) page(n uint32) ([]byte, error) {
	if n == 0 || n > m.pages {
		return nil, fmt.Errorf("there is no page %d", n)
	}
	page := make([]byte, m.pageSize)
	from, at := m.file, int64(n-1)*int64(m.pageSize)
	if offset, ok := m.overlay[n]; ok {
		from, at = m.wal, offset
	}
	if _, err := from.ReadAt(page, at); err != nil {
		return nil, fmt.Errorf("read page %d: %w", n, err)
	}
	return page, nil
}

// checksum is SQLite's running checksum of a write-ahead log.
type checksum struct {
	order  binary.ByteOrder
	s0, s1 uint32
}

func (c *checksum) add(b []byte) {
	for ; len(b) >= 8; b = b[8:] {
		c.s0 += c.order.Uint32(b) + c.s1
		c.s1 += c.order.Uint32(b[4:]) + c.s0
	}
}

func (c *checksum) is(stored []byte) bool {
	return c.s0 == binary.BigEndian.Uint32(stored) && c.s1 == binary.BigEndian.Uint32(stored[4:])
}
