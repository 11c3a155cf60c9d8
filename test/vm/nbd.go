package vm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// The part of the NBD protocol that qemu needs: fixed newstyle negotiation,
// one export, simple replies.
//
// Source: https://github.com/NetworkBlockDevice/nbd, doc/proto.md.
const (
	nbdMagic       = 0x4e42444d41474943 // NBDMAGIC
	nbdOptionMagic = 0x49484156454F5054 // IHAVEOPT
	nbdReplyMagic  = 0x3e889045565a9
	nbdRequest     = 0x25609513
	nbdAnswer      = 0x67446698

	nbdFixedNewstyle = 1 << 0
	nbdNoZeroes      = 1 << 1

	nbdOptAbort = 2
	nbdOptGo    = 7

	nbdRepAck         = 1
	nbdRepInfo        = 3
	nbdRepUnsupported = 1<<31 + 1
	nbdInfoExport     = 0

	nbdHasFlags  = 1 << 0
	nbdSendFlush = 1 << 2

	nbdRead       = 0
	nbdWrite      = 1
	nbdDisconnect = 2
	nbdFlush      = 3

	nbdErrIO      = 5
	nbdErrInvalid = 22

	nbdMaxRequest = 32 << 20
	nbdMaxOption  = 64 << 10
)

// nbd is one connection to a Disk.
type nbd struct {
	disk *Disk
	conn net.Conn
}

func (c *nbd) serve() error {
	if err := c.negotiate(); err != nil {
		return fmt.Errorf("negotiate: %w", err)
	}
	for {
		if err := c.request(); err != nil {
			return err
		}
	}
}

func (c *nbd) send(values ...any) error {
	var out []byte
	for _, v := range values {
		var err error
		if out, err = binary.Append(out, binary.BigEndian, v); err != nil {
			return err
		}
	}
	_, err := c.conn.Write(out)
	return err
}

func (c *nbd) receive(into any) error { return binary.Read(c.conn, binary.BigEndian, into) }

func (c *nbd) negotiate() error {
	if err := c.send(uint64(nbdMagic), uint64(nbdOptionMagic), uint16(nbdFixedNewstyle|nbdNoZeroes)); err != nil {
		return err
	}
	var flags uint32
	if err := c.receive(&flags); err != nil {
		return err
	}
	for {
		var option struct {
			Magic        uint64
			Option, Size uint32
		}
		if err := c.receive(&option); err != nil {
			return err
		}
		if option.Magic != nbdOptionMagic || option.Size > nbdMaxOption {
			return errors.New("malformed option")
		}
		if _, err := io.CopyN(io.Discard, c.conn, int64(option.Size)); err != nil {
			return err
		}
		switch option.Option {
		case nbdOptGo: // there is one export, whatever its name
			info := []any{uint16(nbdInfoExport), uint64(c.disk.size), uint16(nbdHasFlags | nbdSendFlush)}
			if err := c.option(option.Option, nbdRepInfo, info...); err != nil {
				return err
			}
			return c.option(option.Option, nbdRepAck)
		case nbdOptAbort:
			return errors.Join(c.option(option.Option, nbdRepAck), io.EOF)
		default:
			if err := c.option(option.Option, nbdRepUnsupported); err != nil {
				return err
			}
		}
	}
}

func (c *nbd) option(option, kind uint32, data ...any) error {
	size := 0
	for _, d := range data {
		size += binary.Size(d)
	}
	return c.send(append([]any{uint64(nbdReplyMagic), option, kind, uint32(size)}, data...)...)
}

// request does one request. An error ends the connection.
func (c *nbd) request() error {
	var r struct {
		Magic       uint32
		Flags, Type uint16
		Cookie      uint64
		Offset      int64
		Size        uint32
	}
	if err := c.receive(&r); err != nil {
		return err
	}
	if r.Magic != nbdRequest || r.Size > nbdMaxRequest {
		return errors.New("malformed request")
	}
	answer := func(code uint32, data []byte) error { return c.send(uint32(nbdAnswer), code, r.Cookie, data) }
	var data []byte
	var err error
	switch r.Type {
	case nbdRead:
		data = make([]byte, r.Size)
		_, err = c.disk.ReadAt(data, r.Offset)
	case nbdWrite:
		written := make([]byte, r.Size)
		if _, err := io.ReadFull(c.conn, written); err != nil {
			return err // a request that was cut off has not happened
		}
		_, err = c.disk.WriteAt(written, r.Offset)
	case nbdFlush:
		err = c.disk.Flush()
	case nbdDisconnect:
		return io.EOF
	default:
		return answer(nbdErrInvalid, nil)
	}
	if err != nil {
		return answer(nbdErrIO, nil)
	}
	return answer(0, data)
}
