package deploy

import (
	"fmt"

	"skiff/pkg/status"
)

// list says for `skiff status` where each source stands.
func (w *worker) list(sources []source) {
	out := make([]status.AddOn, 0, len(sources))
	for _, s := range sources {
		out = append(out, s.addOn(w.states[s.Name]))
	}
	w.o.AddOns(out)
}

// addOn is the line of one source; st may be nil.
func (s source) addOn(st *state) status.AddOn {
	a := status.AddOn{Name: s.Name, Source: s.Path, State: "applied"}
	if st != nil {
		a.Objects = len(st.objects)
	}
	switch {
	case s.Disabled:
		a.State, a.Objects, a.Message = "disabled", 0, "named by --disable"
	case s.Skip:
		a.State, a.Message = "skipped", "there is a .skip file; what was applied before stays"
	case st == nil:
		a.State = "failed"
	case st.err != nil:
		a.State, a.Message = "failed", st.err.Error()
		if st.retry.IsZero() {
			a.Message = fmt.Sprintf("not tried again before the file changes: %v", st.err)
		}
	}
	return a
}
