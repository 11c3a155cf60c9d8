// Package hostchange remembers what skiff changes on the machine it runs on,
// and undoes it. A change is written down before it is made, so that whatever
// happens in between there is never one that nobody knows of; see DESIGN.md. It
// must not know why something is changed, nor what runs in pods: pkg/halt ends
// that first. Start reading at Recorder, which those who change something are
// given; undo.go takes it all back.
package hostchange

import (
	"errors"
	"fmt"

	"skiff/pkg/paths"
)

// Change is one thing that is changed on the machine.
type Change struct {
	Kind   Kind
	Value  string // what is changed; see Kind
	Before string // how it was, where the kind needs that to undo it
}

// Kind says what a change is about, and so how it is undone.
type Kind string

// Changes that survive a reboot.
const (
	// File is one file, by its path. With a Before it was there already and stays.
	File Kind = "file"
	// Link is a symbolic link to skiff, by its path. One that leads elsewhere stays.
	Link Kind = "link"
	// Dir is a directory that goes when nothing is in it. With a Before it was
	// there already and stays.
	Dir Kind = "dir"
	// Tree is a directory that goes with all that is in it, but for what was there
	// before: Before is what Contents said, and a directory that was there stays.
	Tree Kind = "tree"
	// Data is a Tree that a person may want to keep.
	Data Kind = "data"
	// Files are those of a directory whose name matches a pattern, and Volumes
	// directories with all that is in them, which a person may want to keep.
	Files   Kind = "files"
	Volumes Kind = "volumes"
	// Unit is a service of systemd or OpenRC, by the path of its file.
	Unit Kind = "unit"
	// Replaced is a file of somebody else that was rewritten; Before is what
	// Replacement says.
	Replaced Kind = "replaced"
	// UFW is a rule of ufw, "route allow from 10.42.0.0/16" say.
	UFW Kind = "ufw"
	// Firewalld are options that firewall-cmd was given, "--zone=trusted
	// --add-source=10.42.0.0/16" say: for now and permanently.
	Firewalld Kind = "firewalld"
	// TimeSync is that the machine's time is set over the network: "true".
	TimeSync Kind = "timesync"
)

// Changes that a reboot undoes, too.
const (
	// Sysctl is a kernel setting, "name=what it is set to"; "*" instead of the
	// value is one that changes when another does.
	Sysctl Kind = "sysctl"
	// Interface is a network interface, by its name, and a bridge's ports with it.
	Interface Kind = "interface"
	// Address is an address of the loopback interface.
	Address Kind = "address"
	// Table is one of nftables: "inet name".
	Table Kind = "nft"
	// Routes are those with a protocol number.
	Routes Kind = "routes"
	// Cgroup is a control group with all below it, by its path in each hierarchy.
	Cgroup Kind = "cgroup"
	// Mounts are all below a directory, but not the one on it.
	Mounts Kind = "mounts"
	// Propagation is that all mounts are shared; Before says which were not.
	Propagation Kind = "propagation"
)

// Present is the Before of a File or Dir that was there already.
const Present = "present"

// lasting are the kinds that a reboot does not undo.
func (k Kind) lasting() bool {
	switch k {
	case File, Link, Dir, Tree, Data, Files, Volumes, Unit, Replaced, UFW, Firewalld, TimeSync:
		return true
	}
	return false
}

// Recorder writes changes down. A nil Recorder forgets them, for tests of what
// makes changes. It is safe for concurrent use.
type Recorder struct{ lasting, fleeting *Journal }

// Open reads what is written down.
func Open(layout paths.Layout) (*Recorder, error) {
	lasting, err := open(layout.HostChanges(), "")
	if err != nil {
		return nil, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	fleeting, err := open(layout.HostChangesOfBoot(), boot)
	if err != nil {
		return nil, err
	}
	return &Recorder{lasting: lasting, fleeting: fleeting}, nil
}

// Record writes down what is about to be changed. It returns when that would
// survive a loss of power, if the change would. What is written down already is
// not written again: how it was the first time is what counts.
func (r *Recorder) Record(changes ...Change) error {
	if r == nil {
		return nil
	}
	var lasting, fleeting []Change
	for _, c := range changes {
		if c.Kind.lasting() {
			lasting = append(lasting, c)
		} else {
			fleeting = append(fleeting, c)
		}
	}
	return errors.Join(r.lasting.record(lasting), r.fleeting.record(fleeting))
}

// Lasting and Fleeting return what is written down, the oldest first.
func (r *Recorder) Lasting() []Change { return r.lasting.list() }

// Fleeting returns what a reboot would undo.
func (r *Recorder) Fleeting() []Change { return r.fleeting.list() }

// Fresh reports whether nothing has ever been written down here.
func (r *Recorder) Fresh() bool { return r != nil && len(r.lasting.list()) == 0 }

// Knows reports whether a change is written down.
func (r *Recorder) Knows(kind Kind, value string) bool {
	j := r.fleeting
	if kind.lasting() {
		j = r.lasting
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.known[Change{Kind: kind, Value: value}.key()]
}

// Keep forgets all lasting changes but these.
func (r *Recorder) Keep(changes []Change) error { return r.lasting.replace(changes) }

// Forget removes the journals. What is written down has been undone.
func (r *Recorder) Forget() error { return errors.Join(r.ForgetBoot(), r.lasting.remove()) }

// ForgetBoot removes the journal of what a reboot would undo.
func (r *Recorder) ForgetBoot() error { return r.fleeting.remove() }

// unknown is for a journal that a newer skiff has written.
func (c Change) unknown() error {
	return fmt.Errorf("undo %s %s: this skiff does not know what that is; a newer one has made the change: use that", c.Kind, c.Value)
}
