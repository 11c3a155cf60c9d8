package component

import (
	"fmt"
	"slices"
	"time"
)

// State is where a component is in its life; DESIGN.md has the drawing.
type State int

// The states of a component.
const (
	Waiting  State = iota // what it depends on has not been ready yet
	Starting              // its Run has been called, its Ready is not nil yet
	Ready                 // its Ready is nil, or the task has returned nil
	Degraded              // it has been ready and is not now, or it is being restarted
	Stopping              // its ctx has ended, its Run has not returned
	Stopped               // its Run has returned as asked, or was never called
	Failed                // its Run has returned unasked, or did not return in time
)

var stateNames = [...]string{"waiting", "starting", "ready", "degraded", "stopping", "stopped", "failed"}

// String returns the state's lower-case name.
func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("state(%d)", int(s))
	}
	return stateNames[s]
}

// MarshalText writes the state's name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the state's name.
func (s *State) UnmarshalText(text []byte) error {
	i := slices.Index(stateNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("parse component state %q: unknown name", text)
	}
	*s = State(i)
	return nil
}

// Status is a snapshot of one component.
type Status struct {
	Name    string    `json:"name"`
	State   State     `json:"state"`
	Since   time.Time `json:"since"`             // when it came into State
	Started time.Time `json:"started,omitzero"`  // when Run was last called; zero until then
	Message string    `json:"message,omitempty"` // why it is not ready, for a person
	// ReadyAfter is the time from Started until Ready was first nil in this
	// run; 0 until then.
	ReadyAfter time.Duration `json:"readyAfter,omitempty"` // nanoseconds
	Restarts   int           `json:"restarts,omitempty"`
	After      []string      `json:"after,omitempty"` // names of what it depends on
	Events     []Event       `json:"events,omitempty"`
}

// Event is one change of state. A component remembers its last sixteen.
type Event struct {
	Time    time.Time `json:"time"`
	State   State     `json:"state"`
	Message string    `json:"message,omitempty"`
}

const maxEvents = 16

// enter records that the component is now in state s, and why. Repeating the
// state with another message only updates the message, so that a readiness
// check whose text varies does not flush the history. The caller holds g.mu.
func (st *Status) enter(s State, message string) {
	st.Message = message
	if st.State == s && len(st.Events) > 0 {
		return
	}
	now := time.Now()
	st.State, st.Since = s, now
	if len(st.Events) == maxEvents {
		st.Events = slices.Delete(st.Events, 0, 1)
	}
	st.Events = append(st.Events, Event{Time: now, State: s, Message: message})
}

func (st *Status) clone() Status {
	c := *st
	c.After = slices.Clone(st.After)
	c.Events = slices.Clone(st.Events)
	return c
}
