package main

import (
	"bytes"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"skiff/test/hosts"
)

// figure is one measured quantity over all rounds.
type figure struct {
	Unit   string    `json:"unit"`
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Values []float64 `json:"values"`
}

// figures holds the figures by name.
type figures map[string]*figure

func (f figures) add(name, unit string, value float64) {
	if f[name] == nil {
		f[name] = &figure{Unit: unit}
	}
	f[name].Values = append(f[name].Values, math.Round(value*1000)/1000)
}

// since adds the time passed since begin, in seconds.
func (f figures) since(name string, begin time.Time) { f.add(name, "s", time.Since(begin).Seconds()) }

// summary fills in median, min and max.
func (f figures) summary() figures {
	for _, x := range f {
		sorted := slices.Sorted(slices.Values(x.Values))
		x.Min, x.Max, x.Median = sorted[0], sorted[len(sorted)-1], quantile(sorted, 0.5)
	}
	return f
}

// quantile picks the q-quantile of sorted values, the nearest one there is.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

func fileSize(p hosts.T, path string) float64 {
	info, err := os.Stat(path)
	if err != nil {
		p.Fatalf("%v", err)
	}
	return float64(info.Size())
}

// compressed returns the size of a file as it would be downloaded: by zstd -19,
// or by the Go library's best level where there is no zstd command.
func compressed(p hosts.T, path, dir string) (how string, size float64) {
	out := filepath.Join(dir, "packed")
	if _, err := exec.LookPath("zstd"); err == nil {
		if msg, err := exec.Command("zstd", "-19", "-T0", "-q", "-f", path, "-o", out).CombinedOutput(); err != nil {
			p.Fatalf("compress %s: %v\n%s", path, err, msg)
		}
		return "zstd -19", fileSize(p, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		p.Fatalf("%v", err)
	}
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		p.Fatalf("%v", err)
	}
	if _, err := z.Write(b); err != nil {
		p.Fatalf("%v", err)
	}
	if err := z.Close(); err != nil {
		p.Fatalf("%v", err)
	}
	return "zstd best (Go)", float64(packed.Len())
}
