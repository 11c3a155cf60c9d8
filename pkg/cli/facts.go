package cli

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"skiff/internal/atomicfile"
	"skiff/internal/netx"
	"skiff/pkg/config"
	"skiff/pkg/paths"
)

// gatherFacts asks the machine what config.Complete needs to know.
func gatherFacts() (config.Facts, error) {
	var f config.Facts
	var err error
	if f.Hostname, err = os.Hostname(); err != nil {
		return f, fmt.Errorf("read host name: %w", err)
	}
	if f.WorkingDir, err = os.Getwd(); err != nil {
		return f, fmt.Errorf("find working directory: %w", err)
	}
	if f.RouteAddresses, err = netx.DefaultRouteAddresses(); err != nil {
		return f, fmt.Errorf("find this host's address: %w; set --node-ip", err)
	}
	if f.Addresses, err = netx.HostAddresses(); err != nil {
		return f, fmt.Errorf("find this host's addresses: %w", err)
	}
	f.NodeID = func() (string, error) { return nodeID(paths.New(paths.DefaultData).NodeID()) }
	return f, nil
}

// nodeID reads what is in a file, and makes it the first time.
func nodeID(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the machine's id: %w", err)
	}
	id := strings.Trim(string(data), "\x00 \r\n\t")
	if id == "" {
		var b [4]byte
		if _, err := rand.Read(b[:]); err != nil {
			return "", fmt.Errorf("make the machine's id: %w", err)
		}
		id = hex.EncodeToString(b[:])
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return "", fmt.Errorf("write the machine's id: %w", err)
		}
		if err := atomicfile.Write(path, []byte(id+"\n"), 0o600); err != nil {
			return "", fmt.Errorf("write the machine's id: %w", err)
		}
	}
	return id, nil
}
