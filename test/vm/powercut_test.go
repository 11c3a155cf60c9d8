package vm

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// writer creates ConfigMaps as fast as it can. kubectl names each as soon as
// the server has acknowledged it.
const writer = `i=0; while :; do
	printf -- '---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %[1]s-%%d}\ndata: {value: "%%d"}\n' $i $i; i=$((i+1))
done | skiff kubectl create --validate=false -f - -o name`

// lazy makes the kernel write nothing to the disk because time has passed, so
// that a cut loses whatever nobody has synced, as one in the first seconds does.
const lazy = "sysctl -q vm.dirty_expire_centisecs=360000 vm.dirty_writeback_centisecs=0"

// acknowledged are the names that have reached us.
type acknowledged struct {
	mu    sync.Mutex
	names []string // guarded by mu
}

func (a *acknowledged) add(line string) {
	name, ok := strings.CutPrefix(line, "configmap/")
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.names = append(a.names, name)
}

// wait waits until there are so many.
func (a *acknowledged) wait(t *testing.T, count int) {
	t.Helper()
	deadline := time.Now().Add(commandLimit)
	for len(a.all()) < count {
		if time.Now().After(deadline) {
			t.Fatalf("%d writes were acknowledged within %s, want %d", len(a.all()), commandLimit, count)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (a *acknowledged) all() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.names...)
}

// Power fails while the datastore is being written to, again and again. What
// was acknowledged is there, the node becomes Ready, the pod comes back.
// SKIFF_VM_ROUNDS says how often; the default is 3.
func TestPowerCut(t *testing.T) {
	rounds := 3
	if v := os.Getenv("SKIFF_VM_ROUNDS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatalf("SKIFF_VM_ROUNDS=%q: %v", v, err)
		}
		rounds = n
	}
	m := newMachine(t, false)
	m.Run(lazy)
	install(m)
	m.apply(web)
	acks := &acknowledged{}
	for round := range rounds {
		for w := range 3 {
			m.Start(fmt.Sprintf(writer, fmt.Sprintf("round-%d-writer-%d", round, w)), acks.add)
		}
		// The first cut comes just after the image was unpacked and the pod
		// was started for the first time.
		m.kubectl("wait --for=condition=Ready --timeout=300s pod/web")
		before := m.containers()
		acks.wait(t, len(acks.all())+50*round+20)
		m.CutPower()
		m.Boot()
		m.Run(lazy)
		m.waitActive()
		m.calm()
		checkAcknowledged(m, acks.all(), round)
		m.waitNewContainers(before)
	}
	checkJournal(m)
}

func checkAcknowledged(m *Machine, names []string, round int) {
	m.t.Helper()
	found := map[string]bool{}
	for line := range strings.SplitSeq(m.kubectl(`get configmaps -o jsonpath='{range .items[*]}{.metadata.name}={.data.value}{"\n"}{end}'`), "\n") {
		name, value, _ := strings.Cut(line, "=")
		found[name] = strings.HasSuffix(name, "-"+value)
	}
	var lost []string
	for _, name := range names {
		if !found[name] {
			lost = append(lost, name)
		}
	}
	if len(lost) > 0 {
		m.t.Fatalf("round %d: of %d acknowledged writes %d are lost: %v", round+1, len(names), len(lost), lost[:min(len(lost), 10)])
	}
	m.t.Logf("round %d: all of %d acknowledged writes are there", round+1, len(names))
}
