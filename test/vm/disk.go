package vm

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
)

// pageSize is what the disk keeps or loses as a whole, in bytes: the sector of
// a modern disk.
const pageSize = 4096

// Disk is a disk with a write cache that forgets. What is written stands in
// the cache, and reads see it, but only a flush brings it to the file. When the
// power is cut each page in the cache has one chance in two to have been
// written before, whichever came first: a disk may write its cache in any
// order. So software that does not flush, or relies on an order that it has not
// asked for, is found out; killing qemu alone would lose nothing that has once
// left the guest.
type Disk struct {
	file *os.File
	size int64

	mu    sync.Mutex
	cache map[int64]*[pageSize]byte // by page number; guarded by mu

	listener net.Listener
	served   sync.WaitGroup
}

// NewDisk makes a disk that begins as a copy of an image.
func NewDisk(image, file string) (*Disk, error) {
	if err := command("cp", "--sparse=always", "--reflink=auto", image, file); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size()%pageSize != 0 {
		return nil, fmt.Errorf("disk %s: the size %d is no multiple of %d", file, info.Size(), pageSize)
	}
	return &Disk{file: f, size: info.Size(), cache: map[int64]*[pageSize]byte{}}, nil
}

// Serve offers the disk on a unix socket to one machine, by NBD, until Close.
func (d *Disk) Serve(socket string) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("offer disk: %w", err)
	}
	d.listener = l
	d.served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			d.served.Go(func() {
				defer conn.Close()
				// An end without a word is a power cut or a shutdown.
				_ = (&nbd{disk: d, conn: conn}).serve()
			})
		}
	})
	return nil
}

// Close waits until what the machine has sent is done; the machine must be off.
func (d *Disk) Close() {
	if d.listener != nil {
		d.listener.Close()
		d.served.Wait()
	}
	d.listener = nil
}

// ReadAt implements io.ReaderAt.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n, err := d.file.ReadAt(p, off); err != nil {
		return n, err
	}
	err := d.eachPage(p, off, func(number int64, part []byte, at int) error {
		if page := d.cache[number]; page != nil {
			copy(part, page[at:])
		}
		return nil
	})
	return len(p), err
}

// WriteAt implements io.WriterAt; it writes into the cache.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.eachPage(p, off, func(number int64, part []byte, at int) error {
		page := d.cache[number]
		if page == nil {
			page = &[pageSize]byte{}
			if len(part) < pageSize {
				if _, err := d.file.ReadAt(page[:], number*pageSize); err != nil {
					return err
				}
			}
			d.cache[number] = page
		}
		copy(page[at:], part)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// eachPage splits p, which is at off, by the pages it lies in.
func (d *Disk) eachPage(p []byte, off int64, do func(number int64, part []byte, at int) error) error {
	if off < 0 || off+int64(len(p)) > d.size {
		return errors.New("beyond the end of the disk")
	}
	for len(p) > 0 {
		number, at := off/pageSize, int(off%pageSize)
		n := min(len(p), pageSize-at)
		if err := do(number, p[:n], at); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// Flush makes everything permanent that has been written.
func (d *Disk) Flush() error {
	_, _, err := d.settle(func() bool { return true })
	return err
}

// CutPower empties the cache as a power cut does and reports what became of
// its pages.
func (d *Disk) CutPower() (kept, lost int, err error) {
	return d.settle(func() bool { return rand.IntN(2) == 0 })
}

// settle writes those pages of the cache that keep chooses, and forgets all.
func (d *Disk) settle(keep func() bool) (kept, lost int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	numbers := make([]int64, 0, len(d.cache))
	for n := range d.cache {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers) // in one sweep, for the real disk's sake
	for _, n := range numbers {
		if !keep() {
			lost++
			continue
		}
		if _, err := d.file.WriteAt(d.cache[n][:], n*pageSize); err != nil {
			return kept, lost, fmt.Errorf("write to disk: %w", err)
		}
		kept++
	}
	clear(d.cache)
	return kept, lost, nil
}

var (
	_ io.ReaderAt = (*Disk)(nil)
	_ io.WriterAt = (*Disk)(nil)
)
