package lb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"skiff/internal/atomicfile"
)

// maxServers bounds what a server can make a node remember.
const maxServers = 64

// kept is the file's content.
type kept struct {
	Servers []string `json:"servers"`
}

func load(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of servers: %w", err)
	}
	var k kept
	if err := json.Unmarshal(data, &k); err != nil {
		return nil, fmt.Errorf("parse %s: %w", file, err)
	}
	return clean(k.Servers), nil
}

// save writes the list if it is another than what the file holds.
func save(file string, servers []string) error {
	data, err := json.MarshalIndent(kept{servers}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the list of servers: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("keep the list of servers: %w", err)
	}
	if err := atomicfile.Write(file, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("keep the list of servers: %w", err)
	}
	return nil
}

// clean drops what is no host:port, and repetitions.
func clean(servers []string) []string {
	var out []string
	for _, s := range servers {
		host, port, err := net.SplitHostPort(s)
		n, badPort := strconv.ParseUint(port, 10, 16)
		if err != nil || badPort != nil || host == "" || n == 0 || slices.Contains(out, s) {
			continue
		}
		if len(out) == maxServers {
			break
		}
		out = append(out, s)
	}
	return out
}

// follow keeps the list: what the API says of itself, else what the node was
// told when it joined.
func (b *Balancer) follow(ctx context.Context) {
	endpoints := make(chan []string)
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { b.watch(ctx, endpoints) })
	var joined, live []string
	for {
		select {
		case <-ctx.Done():
			return
		case list := <-b.learned:
			joined = clean(list)
		case list := <-endpoints:
			live = clean(list)
		}
		list := live
		if len(list) == 0 {
			list = joined
		}
		if len(list) > 0 {
			b.know(list)
		}
	}
}

func (b *Balancer) know(list []string) {
	if b.pool.set(list) {
		b.o.Logger.Info("servers of the cluster", "servers", list)
	}
	if err := save(b.o.File, list); err != nil {
		b.o.Logger.Warn("servers will not be known at the next start", "error", err)
	}
}

// note is the key of what `skiff status` says about servers.
const note = "servers"

func (b *Balancer) good(s *server) {
	returned, back, other := b.pool.good(s, time.Now())
	if returned && b.o.Returned != nil {
		b.o.Returned()
	}
	if back {
		b.o.Notes.Clear(note)
	}
	if back || other {
		b.o.Logger.Info("connected with a server", "server", s.address)
	}
}

// lost says that no server answers.
func (b *Balancer) lost(err error) {
	b.o.Notes.Set(note, fmt.Sprintf("no server can be reached, this node goes on with what it has: %s", err))
	if b.pool.lost() {
		b.o.Logger.Warn("no server can be reached, trying whenever something asks for one", "error", err)
	}
}

// failed notes what a server has done wrong. If it is gone its connections are
// closed, so that those who wait for an answer go elsewhere.
func (b *Balancer) failed(s *server, err error) {
	news := b.pool.fail(s, time.Now())
	if gone(err) {
		if n := b.pool.closeThose(s); n > 0 {
			b.o.Logger.Warn("a server does not answer any more", "server", s.address, "error", err, "closed", n)
			return
		}
	}
	if news {
		b.o.Logger.Debug("a server cannot be reached", "server", s.address, "error", err)
	}
}
