package sqlite

import (
	"fmt"
	"strings"
	"time"
)

// Durability says when a write that has been acknowledged is on the disk.
// Whatever it is, nothing is lost when skiff ends or is killed, and no
// revision is used twice.
type Durability string

const (
	// Full syncs before a write is acknowledged: it survives a power cut.
	// Only the renewals of leases, and events, are not waited for.
	Full Durability = "full"
	// Balanced syncs every 100 ms: a power cut takes the writes since then.
	Balanced Durability = "balanced"
	// Relaxed leaves it to the operating system and to checkpoints, as K3s
	// does: a power cut takes the writes of about the last half minute.
	Relaxed Durability = "relaxed"
)

// balancedInterval is how long Balanced leaves a write unsynced.
const balancedInterval = 100 * time.Millisecond

// ParseDurability checks a value of --datastore-durability; "" is Full.
func ParseDurability(s string) (Durability, error) {
	switch d := Durability(s); d {
	case "":
		return Full, nil
	case Full, Balanced, Relaxed:
		return d, nil
	}
	return "", fmt.Errorf("invalid --datastore-durability %q: want full, balanced or relaxed", s)
}

// volatilePrefixes are the keys that only say what is the case right now, and
// are written again within seconds.
var volatilePrefixes = [...]string{"/registry/leases/", "/registry/events/", "/registry/masterleases/"}

func volatile(key string) bool {
	for _, prefix := range volatilePrefixes {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// syncMode is SQLite's PRAGMA synchronous.
type syncMode string

const (
	syncNormal syncMode = "NORMAL" // at checkpoints
	syncFull   syncMode = "FULL"   // at every commit
)

// mode says how a batch is committed.
func (s *store) mode(batch []*change) syncMode {
	if s.durability != Full || !s.settled.Load() {
		return syncNormal
	}
	for _, c := range batch {
		if !volatile(c.key) {
			return syncFull
		}
	}
	return syncNormal
}
