package status

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// wearEvery is the time between two samples, and wearSamples how many are
	// kept: those of the last day.
	wearEvery   = 10 * time.Minute
	wearSamples = 24 * 6

	day = 24 * time.Hour
)

// Wear is how much skiff has written to disks: flash memory wears out by it.
type Wear struct {
	Bytes  int64         `json:"bytes"`  // in the window
	Window time.Duration `json:"window"` // up to the last 24 hours, without the start; nanoseconds
	PerDay int64         `json:"perDay"` // bytes, at the rate of the window
}

// wearMeter samples what this process and its children have had written, as
// /proc/PID/io says: in pages that became dirty, of files on real disks.
//
// Source: proc_pid_io(5), write_bytes.
type wearMeter struct {
	proc string // root of procfs
	now  func() time.Time

	mu      sync.Mutex
	samples []wearSample // oldest first
}

type wearSample struct {
	at    time.Time
	bytes int64
}

// sample adds the present to the samples.
func (m *wearMeter) sample() error {
	written, err := writtenBy(m.proc, os.Getpid())
	if err != nil {
		return fmt.Errorf("measure writes: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.samples = append(m.samples, wearSample{m.now(), written})
	if len(m.samples) > wearSamples+1 {
		m.samples = m.samples[1:]
	}
	return nil
}

// wear is what was written since the oldest sample; nil in the first minute.
func (m *wearMeter) wear() *Wear {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.samples) == 0 {
		return nil
	}
	written, err := writtenBy(m.proc, os.Getpid())
	first := m.samples[0]
	window := m.now().Sub(first.at)
	if err != nil || window < time.Minute {
		return nil
	}
	n := max(0, written-first.bytes) // A child that has ended takes its share along.
	return &Wear{Bytes: n, Window: window, PerDay: int64(float64(n) * float64(day) / float64(window))}
}

// writtenBy sums the bytes of a process and its direct children; of skiff that
// is containerd, while pods belong to nobody.
func writtenBy(proc string, pid int) (int64, error) {
	total, err := writeBytes(proc, strconv.Itoa(pid))
	if err != nil {
		return 0, err
	}
	lists, err := filepath.Glob(filepath.Join(proc, strconv.Itoa(pid), "task", "*", "children"))
	if err != nil {
		return 0, err
	}
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err != nil {
			continue // The thread has ended.
		}
		for child := range strings.FieldsSeq(string(data)) {
			if n, err := writeBytes(proc, child); err == nil {
				total += n
			}
		}
	}
	return total, nil
}

func writeBytes(proc, pid string) (int64, error) {
	path := filepath.Join(proc, pid, "io")
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		if value, ok := bytes.CutPrefix(line, []byte("write_bytes:")); ok {
			n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("parse write_bytes in %s: %w", path, err)
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("no write_bytes in %s", path)
}
