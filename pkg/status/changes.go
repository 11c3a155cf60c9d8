package status

import "fmt"

// Changes are lines on what is different between two reports, of which one may
// be nil: skiff does not run.
func Changes(before, now *Report) []string {
	switch {
	case now == nil:
		return []string{"skiff is not running"}
	case before == nil:
		before = &Report{}
	}
	var out []string
	if before.PID != now.PID {
		out = append(out, fmt.Sprintf("skiff %s is running (pid %d)", now.Version, now.PID))
	}
	out = append(out, differences("component", before.components(), now.components())...)
	out = append(out, differences("node", before.nodes(), now.nodes())...)
	out = append(out, differences("addon", before.addOns(), now.addOns())...)
	out = append(out, differences("note", before.notes(), now.notes())...)
	if before.Ready != now.Ready {
		out = append(out, map[bool]string{true: "ready", false: "not ready"}[now.Ready])
	}
	return out
}

// named is what a line of the status says about something that has a name.
type named struct{ name, says string }

// differences tells what is new, other or gone.
func differences(kind string, before, now []named) []string {
	said := make(map[string]string, len(before))
	for _, b := range before {
		said[b.name] = b.says
	}
	var out []string
	for _, n := range now {
		if said[n.name] != n.says {
			out = append(out, printable(kind+" "+n.name+": "+n.says))
		}
		delete(said, n.name)
	}
	for _, b := range before {
		if _, gone := said[b.name]; gone {
			out = append(out, printable(kind+" "+b.name+": gone"))
		}
	}
	return out
}

func (r *Report) components() (out []named) {
	for _, c := range r.Components {
		out = append(out, named{c.Name, c.State.String() + why(c.Message)})
	}
	return out
}

func (r *Report) nodes() (out []named) {
	for _, n := range r.Nodes {
		out = append(out, named{n.Name, n.State + why(n.Message)})
	}
	return out
}

func (r *Report) addOns() (out []named) {
	for _, a := range r.AddOns {
		out = append(out, named{a.Name, a.State + why(a.Message)})
	}
	return out
}

func (r *Report) notes() (out []named) {
	for _, n := range r.shownNotes() {
		out = append(out, named{n.Key, firstLine(n.Message)})
	}
	return out
}

func why(message string) string {
	if message = firstLine(message); message != "" {
		return ": " + message
	}
	return ""
}
