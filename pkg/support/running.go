package support

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"time"

	"skiff/pkg/paths"
	"skiff/pkg/status"
)

// Options says of which skiff, and how much.
type Options struct {
	Paths      paths.Layout
	ConfigFile string
	Registries string
	LogFile    string   // of --log, if there is one
	Units      []string // patterns of unit files and their environment files
	// HostChanges is the journal of what skiff has changed on this machine.
	HostChanges string
	PID         int      // of the running skiff; 0 if none answers
	Environ     []string // of this process
	// API is where the cluster's API is; "" if nobody knows.
	API string
	// PodLogs asks for the last lines of all pods, not only of the system's.
	PodLogs bool
	// More are parts of others.
	More []Part
}

// askTime is for one question to the running skiff, which may hang.
const askTime = 5 * time.Second

// profileTime is for what stops the whole process for a moment: on a machine
// with much to do that takes its time.
const profileTime = 15 * time.Second

func procOf(pid int) string { return filepath.Join("/proc", strconv.Itoa(pid)) }

// parts are those of an archive, what matters most first.
func (o Options) parts(a *api, scrub *Scrubber) []Part {
	parts := append([]Part{}, o.runningParts()...)
	parts = append(parts, o.More...)
	parts = append(parts, configParts(o)...)
	parts = append(parts, hostParts(o)...)
	if o.LogFile != "" {
		parts = append(parts, Part{Name: "logs/skiff.log", Limit: 3 << 20, Tail: true, Write: func(_ context.Context, w io.Writer) error { return copyEnd(w, o.LogFile, 4<<20) }})
	}
	return append(parts, a.parts(o.PodLogs, scrub)...)
}

// runningParts are what the running skiff says about itself.
func (o Options) runningParts() []Part {
	client := &status.Client{Socket: o.Paths.StatusSocket()}
	ask := func(path string) func(context.Context, io.Writer) error {
		return func(ctx context.Context, w io.Writer) error {
			body, err := client.Open(ctx, path)
			if err != nil {
				return err
			}
			defer body.Close()
			_, err = io.Copy(w, body)
			return err
		}
	}
	parts := []Part{
		{Name: "skiff/status.txt", Time: askTime, Write: func(ctx context.Context, w io.Writer) error {
			r, err := client.Get(ctx)
			if err != nil {
				return err
			}
			return status.WriteText(w, r, time.Now(), false)
		}},
		{Name: "skiff/status.json", Time: askTime, Write: func(ctx context.Context, w io.Writer) error {
			r, err := client.Get(ctx)
			if err != nil {
				return err
			}
			return status.WriteJSON(w, r)
		}},
		{Name: "logs/recent.txt", Time: askTime, Tail: true, Write: ask(status.LogPath)},
		{Name: "skiff/goroutines.txt", Time: profileTime, Write: ask("/debug/pprof/goroutine?debug=1")},
		{Name: "skiff/goroutines-each.txt", Limit: 2 << 20, Time: profileTime, Write: ask("/debug/pprof/goroutine?debug=2")},
		{Name: "skiff/heap.pprof", Binary: true, Limit: 2 << 20, Time: profileTime, Write: ask("/debug/pprof/heap")},
	}
	if o.PID == 0 {
		return parts
	}
	proc := procOf(o.PID)
	return append(parts,
		files("skiff/process.txt", filepath.Join(proc, "status"), filepath.Join(proc, "smaps_rollup"), filepath.Join(proc, "limits"), filepath.Join(proc, "io"), filepath.Join(proc, "oom_score_adj")),
		// Where its threads are in the kernel says what a skiff waits for that
		// does not answer.
		Part{Name: "skiff/threads.txt", Write: func(_ context.Context, w io.Writer) error {
			tasks, err := filepath.Glob(filepath.Join(proc, "task", "*"))
			for _, task := range tasks {
				_, _ = fmt.Fprintf(w, "# %s %s %s\n%s\n", filepath.Base(task), read(filepath.Join(task, "comm")), read(filepath.Join(task, "wchan")), read(filepath.Join(task, "stack")))
			}
			return err
		}},
		Part{Name: "skiff/environment.txt", Write: func(_ context.Context, w io.Writer) error {
			_, err := fmt.Fprint(w, maskedEnvironment(read(filepath.Join(proc, "environ"))))
			return err
		}},
		Part{Name: "skiff/command-line.txt", Write: func(_ context.Context, w io.Writer) error {
			return writeArguments(w, read(filepath.Join(proc, "cmdline")))
		}},
	)
}
