// Package status tells other processes on the host how this skiff is: a JSON
// report over a unix socket, its client, and the table a person reads. It knows
// components only by their Status. Start reading at Report, then Server.
package status

import (
	"slices"
	"strings"
	"sync"
	"time"

	"skiff/pkg/component"
)

// Report is all that can be said about one running skiff.
type Report struct {
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	// Ready is true when every component is ready now.
	Ready bool `json:"ready"`
	// ReadyAfter is the time from Started until all were ready for the first
	// time; 0 until then.
	ReadyAfter time.Duration      `json:"readyAfter,omitempty"` // nanoseconds
	Components []component.Status `json:"components"`
	// AddOns are the manifests, those of the user and skiff's own.
	AddOns []AddOn `json:"addOns,omitempty"`
	// Nodes are those of the cluster; a server that can ask its API has them.
	Nodes []Node `json:"nodes,omitempty"`
	Notes []Note `json:"notes,omitempty"`
	// Wear is what skiff writes to disks, from a minute after it was ready.
	Wear *Wear `json:"wear,omitempty"`
}

// Note is a line some part of skiff has for the reader of the status, such as
// a manifest that does not parse. Notes do not influence Ready.
type Note struct {
	Key     string    `json:"key"`
	Message string    `json:"message"`
	Since   time.Time `json:"since"`
}

// AddOn says where one manifest stands.
type AddOn struct {
	Name string `json:"name"`
	// State is applied, failed (and tried again, or not before the file
	// changes), disabled or skipped.
	State   string    `json:"state"`
	Source  string    `json:"source"`
	Objects int       `json:"objects"`
	Message string    `json:"message,omitempty"`
	Since   time.Time `json:"since"` // of the state
}

// Node says how one machine of the cluster is, as far as the server knows.
type Node struct {
	Name string `json:"name"`
	// State is ready, not ready or unreachable.
	State   string    `json:"state"`
	Since   time.Time `json:"since"`             // of the state
	Message string    `json:"message,omitempty"` // what is wrong, or worth knowing
	Version string    `json:"version,omitempty"` // of the kubelet
	Address string    `json:"address,omitempty"`
}

// NodeReady is the State of a Node that runs pods.
const NodeReady = "ready"

// Notes is where parts of skiff leave their notes. The key identifies a note:
// setting it again replaces the message.
type Notes interface {
	Set(key, message string)
	Clear(key string)
}

// ManifestNote begins the keys of notes on single manifests.
const ManifestNote = "manifest/"

// NoteBook is the Notes of a Server. The zero NoteBook is empty and usable.
type NoteBook struct {
	mu     sync.Mutex
	notes  map[string]Note
	addOns []AddOn
	// changed is closed at the next change; nil if nobody waits.
	changed chan struct{}
}

var _ Notes = (*NoteBook)(nil)

// Set adds or replaces a note. Repeating the message keeps its time.
func (b *NoteBook) Set(key, message string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if old, ok := b.notes[key]; ok && old.Message == message {
		return
	}
	if b.notes == nil {
		b.notes = make(map[string]Note)
	}
	b.notes[key] = Note{Key: key, Message: message, Since: time.Now()}
	b.tell()
}

// Clear removes a note; one that is not there is no error.
func (b *NoteBook) Clear(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.notes, key)
	b.tell()
}

// List returns the notes sorted by key.
func (b *NoteBook) List() []Note {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]Note, 0, len(b.notes))
	for _, n := range b.notes {
		list = append(list, n)
	}
	slices.SortFunc(list, func(x, y Note) int { return strings.Compare(x.Key, y.Key) })
	return list
}

// SetAddOns replaces the list of the AddOns. Since is filled in: one whose state
// is what it was keeps its time.
func (b *NoteBook) SetAddOns(list []AddOn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list, now := slices.Clone(list), time.Now()
	for i, a := range list {
		list[i].Since = now
		for _, old := range b.addOns {
			if old.Name == a.Name && old.State == a.State {
				list[i].Since = old.Since
			}
		}
	}
	b.addOns = list
	b.tell()
}

// Changed returns a channel that is closed when a note or an AddOn changes.
func (b *NoteBook) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.changed
}

// tell wakes who waits for a change. The caller holds b.mu.
func (b *NoteBook) tell() {
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// AddOns returns the AddOns in the order they were given.
func (b *NoteBook) AddOns() []AddOn {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.addOns)
}
