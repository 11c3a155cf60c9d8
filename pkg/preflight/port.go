package preflight

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"skiff/internal/netx"
)

// Port is a TCP port that skiff will listen on.
type Port struct {
	Address netip.AddrPort
	// For says who needs it and how to choose another one, in parentheses
	// behind the port: "the API, see --https-listen-port".
	For string
}

// Ports checks that every port is free. The error joins one line for each that
// is not, naming the process that has it if the kernel tells.
func Ports(ports []Port) error {
	var errs []error
	for _, p := range ports {
		if err := checkPort(p); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func checkPort(p Port) error {
	err := netx.CheckPortFree(p.Address)
	var used *netx.PortInUseError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &used):
		user := "another process"
		if used.PID != 0 {
			user = fmt.Sprintf("%s (process %d)", used.Process, used.PID)
		}
		return fmt.Errorf("port %d (%s) is in use by %s; stop it, or choose another port", p.Address.Port(), p.For, user)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("address %s (%s) is not one of this host's", p.Address.Addr(), p.For)
	default:
		return fmt.Errorf("check the port of %s: %w", p.For, err)
	}
}
