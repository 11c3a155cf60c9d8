package upgrade

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"skiff/pkg/component"
	"skiff/pkg/status"
)

// Health is how the skiff of this machine is.
type Health struct {
	PID     int
	Version string
	// New is true if it runs the executable that was asked for.
	New   bool
	Ready bool
	// Why says what is missing.
	Why string
}

// askLimit is how long it has to answer.
const askLimit = 5 * time.Second

// askHealth asks the skiff behind the socket, and looks which executable it is.
func askHealth(ctx context.Context, socket string, wanted identity) Health {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	r, err := (&status.Client{Socket: socket}).Get(ctx)
	if err != nil {
		return Health{Why: err.Error()}
	}
	h := Health{PID: r.PID, Version: r.Version, Ready: r.Ready}
	h.New = wanted.is(filepath.Join("/proc", strconv.Itoa(r.PID), "exe"))
	if !r.Ready {
		h.Why = missing(r)
	}
	return h
}

// missing names what is not ready, first what others wait for.
func missing(r *status.Report) string {
	var waiting []string
	for _, c := range r.Components {
		if c.State != component.Ready {
			waiting = append(waiting, strings.TrimSuffix(fmt.Sprintf("%s (%s)", c.Name, c.Message), " ()"))
		}
	}
	const shown = 3
	if more := len(waiting) - shown; more > 0 {
		waiting = append(waiting[:shown], fmt.Sprintf("%d more", more))
	}
	return "not ready: " + strings.Join(waiting, ", ")
}
