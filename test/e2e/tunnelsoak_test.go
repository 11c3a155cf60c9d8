package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"skiff/test/hosts"
)

// TestTunnelSoak breaks the way to an agent in every manner for as long as an
// hour or so, and wants it back within ten seconds each time, with no
// descriptor lost. Before that it watches what an idle agent sends.
func TestTunnelSoak(t *testing.T) {
	if os.Getenv("SKIFF_SOAK") != "1" {
		t.Skip("SKIFF_SOAK=1 runs this (make soak)")
	}
	s, server, agent := closedAgent(t)
	idle(t, agent)
	rounds := 60
	if n, err := strconv.Atoi(os.Getenv("SKIFF_SOAK_ROUNDS")); err == nil {
		rounds = n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	before := [2]int{open(server), open(agent)}
	for round := range rounds {
		long := time.Duration(random.IntN(30_000)) * time.Millisecond
		var what string
		switch random.IntN(4) {
		case 0:
			what = fmt.Sprintf("round %d, cut for %s", round, long)
			server.Cut(agent)
			time.Sleep(long)
			server.Heal(agent)
		case 1:
			what = fmt.Sprintf("round %d, 30 %% loss for %s", round, long)
			agent.Loss(30)
			time.Sleep(long)
			agent.Loss(0)
		case 2:
			what = fmt.Sprintf("round %d, cable out for %s", round, long)
			agent.Cable(false)
			time.Sleep(long)
			agent.Cable(true)
		case 3:
			what = fmt.Sprintf("round %d, server killed", round)
			server.Kill9()
			server.Start()
			server.WaitReady()
			before[0] = 0 // another process
		}
		recovers(t, s, what)
		if before[0] == 0 {
			before[0] = open(server)
		}
	}
	time.Sleep(time.Minute)
	after := [2]int{open(server), open(agent)}
	t.Logf("descriptors of server and agent: %v before, %v after %d rounds", before, after, rounds)
	for i := range after {
		if after[i] > before[i]+20 {
			t.Errorf("descriptors grew from %d to %d", before[i], after[i])
		}
	}
}

// open counts the descriptors of skiff on a host.
func open(h *hosts.Host) int {
	out := h.Run("sh", "-c", fmt.Sprintf("ls /proc/%d/fd | wc -l", h.Skiff().PID()))
	n, _ := strconv.Atoi(strings.TrimSpace(out))
	return n
}

// idle works out what an agent with one idle pod exchanges in a day.
func idle(t *testing.T, agent *hosts.Host) {
	count := func() (bytes int64) {
		for _, file := range []string{"rx_bytes", "tx_bytes"} {
			n, err := strconv.ParseInt(strings.TrimSpace(agent.Run("cat", "/sys/class/net/eth0/statistics/"+file)), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			bytes += n
		}
		return bytes
	}
	time.Sleep(time.Minute)
	before := count()
	const watch = 10 * time.Minute
	time.Sleep(watch)
	t.Logf("an idle agent exchanges %.1f MB a day, leases and status included", float64(count()-before)*float64(24*time.Hour/watch)/1e6)
}
