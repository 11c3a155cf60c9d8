// Command serve runs one store for test/bench/datastore until it gets SIGTERM
// or its standard input ends: "ours" is pkg/datastore as the server opens it,
// "kine" is upstream's SQLite driver and gRPC front with the settings of K3s.
// It is a program of its own, so that its memory is that of a store and not of
// the measuring program. Start reading at main, and for kine at kine.go.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"syscall"

	"skiff/pkg/datastore"
)

func main() {
	dir := flag.String("dir", "", "directory of the database")
	socket := flag.String("socket", "", "unix socket to serve on; for kine also HOST:PORT")
	durability := flag.String("durability", "", "of ours, as --datastore-durability of skiff")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	go func() { // Ends with the process: nothing else ends a read of stdin.
		if err := obey(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		cancel()
	}()
	var err error
	switch flag.Arg(0) {
	case "ours":
		err = ours(ctx, datastore.Options{Dir: *dir, Socket: *socket, Durability: *durability, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	case "kine":
		err = kine(ctx, *dir, *socket)
	default:
		err = fmt.Errorf("serve %q: want ours or kine", flag.Arg(0))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func ours(ctx context.Context, o datastore.Options) error {
	ds, err := datastore.Open(o)
	if err != nil {
		return err
	}
	return ds.Run(ctx)
}

// obey takes one command per line and answers each with a line, "ok" or what
// was wrong: "profile FILE" begins a CPU profile, "stop" ends it, "heap FILE"
// writes what is allocated, "rest" does what skiff does once it has had nothing
// to do for half a minute (pkg/cli/runtime.go).
func obey(commands io.Reader, answers io.Writer) error {
	var file *os.File
	lines := bufio.NewScanner(commands)
	for lines.Scan() {
		word, path, _ := strings.Cut(lines.Text(), " ")
		var err error
		switch word {
		case "profile":
			if file, err = os.Create(path); err == nil {
				err = pprof.StartCPUProfile(file)
			}
		case "stop":
			pprof.StopCPUProfile()
			err = file.Close()
		case "heap":
			err = heap(path)
		case "rest":
			debug.SetGCPercent(25)
			debug.FreeOSMemory()
		default:
			err = fmt.Errorf("unknown command %q", word)
		}
		answer := "ok"
		if err != nil {
			answer = err.Error()
		}
		fmt.Fprintln(answers, answer)
	}
	return lines.Err()
}

func heap(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup("allocs").WriteTo(f, 0), f.Close())
}
