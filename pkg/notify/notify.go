// Package notify tells the service manager how skiff is, by the protocol of
// sd_notify(3), which needs nothing but a datagram socket. It knows no other
// part of skiff. Start reading at Notifier.
package notify

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// Notifier sends states to the socket of that path, the value of
// $NOTIFY_SOCKET; one that begins with "@" is in the abstract namespace. The
// empty Notifier sends nothing, so that nobody has to ask whether there is a
// service manager.
type Notifier string

// Ready says that the start is complete, with a line for `systemctl status`.
func (n Notifier) Ready(status string) error { return n.send("READY=1", "STATUS="+status) }

// Stopping says that the stop has begun.
func (n Notifier) Stopping(status string) error { return n.send("STOPPING=1", "STATUS="+status) }

// Status sets the line that `systemctl status` shows.
func (n Notifier) Status(status string) error { return n.send("STATUS=" + status) }

// send joins the assignments with line breaks, so none may contain one.
func (n Notifier) send(assignments ...string) error {
	if n == "" {
		return nil
	}
	for i, a := range assignments {
		assignments[i] = strings.ReplaceAll(a, "\n", " ")
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: string(n), Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("connect to service manager: %w", err)
	}
	_, err = conn.Write([]byte(strings.Join(assignments, "\n")))
	if err := errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	return nil
}
