package crash

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"skiff/test/datastore/crash/disk"
	"skiff/test/datastore/crash/ledger"
	"skiff/test/datastore/crash/victim"
)

// Loads of everything at once, and of little.
var (
	mixed = ledger.Load{Writers: 6, Renewers: 4, Keys: 12, Big: 100_000, Compact: true, Pause: time.Millisecond}
	heavy = ledger.Load{Writers: 4, Renewers: 2, Keys: 6, Big: 100_000, Heavy: true, Compact: true}
	few   = ledger.Load{Writers: 2, Renewers: 1, Keys: 5, Big: 5000}
)

// dbFile is where a store keeps its database in the directory that is recorded.
const dbFile = "db/state.db"

// TestPowerCut cuts the power at any moment of several lives of a store. What
// is left on the disk has to open, with all that was acknowledged.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		images int
		lives  []life
	}{
		{"first start", amount(60, 300), []life{{load: few, time: 150 * time.Millisecond}}},
		{"everything", amount(100, 500), []life{{load: mixed, time: 1500 * time.Millisecond}}},
		{"checkpoints", amount(40, 300), []life{{load: heavy, time: 1500 * time.Millisecond}}},
		{"stops and kills", amount(60, 400), []life{
			{load: mixed, time: 300 * time.Millisecond},
			{load: mixed, time: 300 * time.Millisecond, kill: true},
			{load: few, time: 200 * time.Millisecond, kill: true},
			{load: mixed, time: 300 * time.Millisecond},
		}},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			seed := seed(t) + uint64(i)
			s := place(t, fastDir(t))
			rec := record(t, s, seed, tt.lives...)
			t.Logf("%d writes to the database itself, %d to its log", rec.log.Writes(dbFile), rec.log.Writes(dbFile+"-wal"))
			rec.cutOften(t, s, seed, tt.images, full)
		})
	}
}

// TestPowerCutInBootstrap cuts the power while a cluster is made for the first
// time, which the store does not sync, and afterwards.
func TestPowerCutInBootstrap(t *testing.T) {
	t.Parallel()
	seed := seed(t)
	s := place(t, fastDir(t))
	rec := record(t, s, seed,
		life{load: mixed, time: 400 * time.Millisecond, settle: 200 * time.Millisecond},
		life{load: few, time: 100 * time.Millisecond},
	)
	s.Bootstrap = true
	lost := rec.cutOften(t, s, seed, amount(50, 300), func(at int) ledger.Accident {
		if at < rec.settled {
			return nothing(at)
		}
		return full(at)
	})
	t.Logf("%d images had lost something of the first start", lost)
}

// TestPowerCutInRecovery cuts the power again while a store recovers from a cut,
// or from damage, and goes on to work.
func TestPowerCutInRecovery(t *testing.T) {
	t.Parallel()
	seed := seed(t)
	first := place(t, fastDir(t))
	before := record(t, first, seed, life{load: mixed, time: 400 * time.Millisecond})
	work := life{load: few, time: 60 * time.Millisecond, inherit: true}
	for i, cut := range before.cuts(rand.New(rand.NewPCG(seed, 3)), amount(4, 30)) {
		t.Run(fmt.Sprintf("cut %d", i), func(t *testing.T) {
			s := place(t, fastDir(t))
			s.BootID = "second-boot"
			if err := before.log.Build(cut).WriteTo(filepath.Dir(s.Dir)); err != nil {
				t.Fatal(err)
			}
			work.known = before.ledger.Highest(cut.At)
			rec := record(t, s, seed+uint64(i), work)
			rec.cutOften(t, s, seed, amount(15, 60), full)
		})
	}
	for i, d := range damages {
		if i%amount(3, 1) != 0 || d.file != "" {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			f := fillStore(t, false)
			s := place(t, fastDir(t))
			s.BootID = "second-boot"
			if err := os.CopyFS(s.Dir, os.DirFS(f.spec.Dir)); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(filepath.Join(s.Dir, "state.db"))
			if err != nil {
				t.Fatal(err)
			}
			data = d.do(rand.New(rand.NewPCG(seed, uint64(i))), data, f.page)
			if err := os.WriteFile(filepath.Join(s.Dir, "state.db"), data, 0o600); err != nil {
				t.Fatal(err)
			}
			work.known = f.ledger.Highest(0)
			rec := record(t, s, seed+uint64(i), work)
			rec.cutOften(t, s, seed, amount(15, 60), full)
		})
	}
}

// TestPowerCutAfterErrors cuts the power of a store whose disk now and then
// fails to sync. Such a write is refused; what is acknowledged later is not
// lost because of what the system has forgotten.
func TestPowerCutAfterErrors(t *testing.T) {
	t.Parallel()
	seed := seed(t)
	s := place(t, fastDir(t))
	syncs, failed := 0, 0 // the recorder's, which asks one after the other
	stubborn := mixed
	stubborn.Stubborn = true
	broken := func() bool {
		if syncs++; syncs < 40 || syncs%15 > 0 { // It comes up first.
			return false
		}
		failed++
		return true
	}
	rec := record(t, s, seed, life{load: stubborn, time: time.Second, kill: true, broken: broken})
	t.Logf("%d of %d syncs failed", failed, syncs)
	if failed == 0 {
		t.Error("no sync has failed")
	}
	rec.cutOften(t, s, seed, amount(60, 500), full)
}

// TestLooseDurability cuts the power of stores that do not wait for the disk.
// They lose writes, but use no revision twice and leave no holes. That they do
// lose some shows that the recorder and the cuts are worth something.
func TestLooseDurability(t *testing.T) {
	t.Parallel()
	for i, durability := range []string{"balanced", "relaxed"} {
		t.Run(durability, func(t *testing.T) {
			seed := seed(t) + uint64(i)
			s := place(t, fastDir(t))
			s.Durability = durability
			rec := record(t, s, seed, life{load: mixed, time: 1200 * time.Millisecond})
			promised := nothing
			if durability == "balanced" {
				// 100 ms, and what the machine and the recorder take.
				promised = func(at int) ledger.Accident {
					return ledger.Accident{Before: rec.log.Time(at).Add(-600 * time.Millisecond)}
				}
			}
			n := amount(40, 300)
			if lost := rec.cutOften(t, s, seed, n, promised); lost == 0 {
				t.Errorf("none of %d images had lost anything: the recorder does not see what is synced", n)
			} else {
				t.Logf("%d of %d images had lost something, as expected", lost, n)
			}
		})
	}
}

// cutOften tries many cuts, and returns how many of them lost something that
// full durability would have kept.
func (r recording) cutOften(t *testing.T, s victim.Spec, seed uint64, images int, promised promise) (lost int) {
	t.Helper()
	begin, failed := time.Now(), 0
	for _, cut := range r.cuts(rand.New(rand.NewPCG(seed, 2)), images) {
		v := r.try(t, s, cut, promised)
		if len(v.lost) > 0 {
			lost++
		}
		if v.refused == nil && len(v.wrong) == 0 {
			continue
		}
		if failed++; failed < 4 {
			t.Errorf("%v: refused: %v\n%v\nimage:\n%vlast operations:\n%s",
				cut, v.refused, errors.Join(v.wrong...), r.log.Build(cut), r.log.Dump(cut.At, 40))
			r.keep(t, cut)
		}
	}
	t.Logf("%d of %d images were wrong (%s)", failed, images, time.Since(begin).Round(time.Millisecond))
	return lost
}

// keep leaves an image for a person to look at, if one wants that.
func (r recording) keep(t *testing.T, cut disk.Cut) {
	t.Helper()
	to := os.Getenv("SKIFF_KEEP")
	if to == "" {
		return
	}
	dir, err := os.MkdirTemp(to, "image-") //nolint:usetesting // It is there to stay.
	if err == nil {
		err = r.log.Build(cut).WriteTo(dir)
	}
	t.Logf("the image is in %s: %v", dir, err)
}
