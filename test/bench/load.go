package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// traffic asks one server over kept connections, each as fast as it is answered. It writes and reads HTTP/1.1 itself: net/http's client costs more
// than any of the servers.
type traffic struct {
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	address string
	host    string
	conns   int
}

// loaded is what a traffic saw.
type loaded struct {
	requests int
	took     time.Duration
	times    []time.Duration // of each request, sorted
}

func (l loaded) perSecond() float64 { return float64(l.requests) / l.took.Seconds() }

func (l loaded) p99() float64 {
	if len(l.times) == 0 {
		return 0
	}
	return float64(l.times[len(l.times)*99/100]) / float64(time.Millisecond)
}

// run asks for a while. Any answer but 200 is an error.
func (l *traffic) run(d time.Duration) (loaded, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range l.conns {
		c, err := l.dial(ctx, "tcp", l.address)
		if err != nil {
			return loaded{}, fmt.Errorf("connect to %s: %w", l.address, err)
		}
		conns = append(conns, c)
	}
	var wg sync.WaitGroup
	times, errs := make([][]time.Duration, l.conns), make([]error, l.conns)
	begin := time.Now()
	for i, c := range conns {
		_ = c.SetDeadline(begin.Add(d + 10*time.Second))
		wg.Go(func() { times[i], errs[i] = l.ask(c, begin.Add(d)) })
	}
	wg.Wait()
	out := loaded{took: time.Since(begin), times: slices.Concat(times...)}
	out.requests = len(out.times)
	slices.Sort(out.times)
	return out, errors.Join(errs...)
}

// ask uses one connection until end.
func (l *traffic) ask(c net.Conn, end time.Time) (times []time.Duration, err error) {
	request := []byte("GET /path?query=1 HTTP/1.1\r\nHost: " + l.host + "\r\nUser-Agent: skiff-bench\r\nAccept: */*\r\n\r\n")
	r := bufio.NewReaderSize(c, 4096)
	for now := time.Now(); now.Before(end); {
		if _, err := c.Write(request); err != nil {
			return times, err
		}
		if err := readAnswer(r); err != nil {
			return times, err
		}
		next := time.Now()
		times = append(times, next.Sub(now))
		now = next
	}
	return times, nil
}

var errNotOK = errors.New("not a 200 with a length")

// readAnswer reads a 200 with a length, the only one there is here.
func readAnswer(r *bufio.Reader) error {
	length := -1
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("%w: %s", errNotOK, line)
		}
		if len(line) == 0 {
			break
		}
		const name = "content-length:"
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], []byte(name)) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(name):]))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return errNotOK
	}
	_, err := io.CopyN(io.Discard, r, int64(length))
	return err
}
