package tunnel

import (
	"errors"
	"fmt"
	"time"
)

// NotConnectedError says that a peer has no session, and none came within the
// time that was waited.
type NotConnectedError struct {
	Peer   string
	Gone   time.Duration // since its last session ended; 0 if there was none
	Waited time.Duration
}

func (e *NotConnectedError) Error() string {
	since := "has not connected to this server since it started"
	if e.Gone > 0 {
		since = fmt.Sprintf("has been disconnected from this server for %s", e.Gone.Round(time.Second))
	}
	return fmt.Sprintf("%s %s (waited %s); is it running, and can it reach this server? `skiff status` on it says", e.Peer, since, e.Waited.Round(100*time.Millisecond))
}

// TargetError says that a peer could not or would not dial an address.
type TargetError struct {
	Peer, Target string
	// Refused is set if the peer's rules forbid the address.
	Refused bool
	Message string
}

func (e *TargetError) Error() string {
	return fmt.Sprintf("dial %s through %s: %s", e.Target, e.Peer, e.Message)
}

// RefusedError says that a server did not want a peer.
type RefusedError struct {
	Status  int
	Message string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the server refused the tunnel (%d): %s", e.Status, e.Message)
}

// Causes for which sessions end.
var (
	errStopping   = errors.New("the tunnel is being stopped")
	errReplaced   = errors.New("replaced by a newer session")
	errExpired    = errors.New("the certificate that it was opened with has expired")
	errRenewed    = errors.New("there is another certificate")
	errMoved      = errors.New("this machine does not have the address any more from which it was opened")
	errTooMany    = errors.New("too many sessions of the same peer")
	errNoAnswer   = errors.New("the peer does not answer")
	errPeerClosed = errors.New("the peer has closed it")
)
