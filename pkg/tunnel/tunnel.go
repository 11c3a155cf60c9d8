// Package tunnel lets a server open connections to peers that it cannot reach:
// each peer keeps one outbound connection to each server, and over it the
// server dials what the peer lets it dial. Nodes use it for their kubelets;
// whole clusters can use it the same way. It knows nothing of Kubernetes, of
// certificates' meaning, or of who the peers are. Start reading at Client, the
// peer's end, then Server; DESIGN.md has the protocol.
package tunnel

import (
	"fmt"
	"net/netip"
	"time"
)

// Path is where a server accepts the sessions of its nodes.
const Path = "/v1-skiff/connect"

// Protocol is what a peer upgrades to: HTTP/2 with the roles turned.
const Protocol = "skiff-tunnel/1"

// Times and sizes of a session. DESIGN.md says how they hang together.
const (
	// keepIdle is the silence after which the kernel asks the other kernel whether
	// it knows of the connection, every keepEvery until unackedTimeout has passed
	// since its last sign: a peer at all times, a server while there are streams.
	keepIdle  = 4 * time.Second
	keepEvery = time.Second
	// unackedTimeout is how long the kernel waits for data to be acknowledged.
	unackedTimeout = 8 * time.Second
	// pingEvery is the silence after which a peer asks its server itself. There
	// may be relays in between, which answer the kernel, and close what is idle;
	// the server only asks when that question did not come.
	pingEvery       = 45 * time.Second
	pingTimeout     = 5 * time.Second
	serverPingEvery = pingEvery + 15*time.Second
	// doubtAfter is how long a peer may be silent about a stream before the
	// server asks whether it is there at all.
	doubtAfter = 1500 * time.Millisecond
	// probeTimeout is what a session has to prove itself in: one that is in
	// doubt, or an older one of a peer when a newer one comes.
	probeTimeout = 3 * time.Second
	// connectTimeout bounds one attempt to connect, so that one that began
	// before the network came back does not keep the next waiting.
	connectTimeout = 5 * time.Second
	// targetTimeout bounds the peer's dialling, answerTimeout the server's wait
	// for what came of it.
	targetTimeout = 5 * time.Second
	answerTimeout = 10 * time.Second
	// lingerTime is what a closed connection has to deliver what was written.
	lingerTime = 5 * time.Second

	// window bounds what one direction of one stream may have under way.
	window = 512 << 10
	// sessionWindow is larger than all streams' together: one that is not read
	// must not take the others' share.
	sessionWindow = 1 << 30
	frameSize     = 16 << 10
	maxStreams    = 1000
	// maxSessions of one peer at a server.
	maxSessions = 4
	// maxHead bounds the head of the upgrade's answer, maxMessage a reason.
	maxHead    = 8 << 10
	maxMessage = 1 << 10
)

const (
	// trailerError is the trailer that says why a stream ended early.
	trailerError = "Skiff-Error"
	// headerServer says which server a peer has reached: one may have several
	// addresses.
	headerServer = "Skiff-Server"
)

// parseTarget reads what a stream is to be connected to. Only addresses are
// taken: a name could mean one thing when it is checked and another when it is
// dialled.
func parseTarget(s string) (netip.AddrPort, error) {
	t, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("target %.100q is not an address and a port", s)
	}
	if t.Port() == 0 || t.Addr().Zone() != "" || t.Addr().IsUnspecified() || t.Addr().IsMulticast() {
		return netip.AddrPort{}, fmt.Errorf("target %.100q is not the address of one host and a port", s)
	}
	return netip.AddrPortFrom(t.Addr().Unmap(), t.Port()), nil
}
