package offline

import (
	"testing"

	"skiff/pkg/agent/offline/journal"
)

// FuzzReplay: whatever a record says, what comes of it is consistent.
func FuzzReplay(f *testing.F) {
	for _, h := range []header{
		{Op: opPut, Table: pods, Key: "a/b", Version: "7"},
		{Op: opJoin, Table: pods, Key: "a/b", Stream: "s"},
		{Op: opVersion, Table: pods, Stream: "s", Version: "9"},
		{Op: opDrop, Table: nodes, Key: "n1"},
		{Op: opForget, Stream: "s"},
	} {
		content, err := record(h, []byte("\x0a\x00"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Add([]byte("\xff\xff\xff\xff\x7f{}"))
	f.Fuzz(func(t *testing.T, content []byte) {
		s := newState()
		for _, h := range []header{
			{Op: opPut, Table: pods, Key: "shop/a", Version: "7"},
			{Op: opJoin, Table: pods, Key: "shop/a", Stream: "own"},
			{Op: opVersion, Table: pods, Stream: "own", Version: "9"},
		} {
			known, err := record(h, []byte("\x0a\x00"))
			if err != nil {
				t.Fatal(err)
			}
			s.replay(known, journal.Place{})
		}
		s.replay(content, journal.Place{})
		s.settle()
		var live int64
		for _, table := range s.tables {
			for _, o := range table {
				live += int64(o.size)
			}
		}
		if live != s.live {
			t.Errorf("%d bytes are counted as %d", live, s.live)
		}
		for name, st := range s.streams {
			for k := range st.members {
				if s.object(st.table, k) == nil {
					t.Errorf("%s has %s, which is not there", name, k)
				}
			}
		}
	})
}
