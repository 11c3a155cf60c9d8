package netpol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"skiff/internal/atomicfile"
	"skiff/pkg/agent/netpol/kernel"
	"skiff/pkg/agent/netpol/plan"
	"skiff/pkg/paths"
)

// claims are the addresses that this node has given to pods. They are kept
// below /run, where they cost no disk and end with the pods: a pod whose status
// does not have its address yet must not lose its isolation to a restart of
// skiff.
type claims map[netip.Addr]plan.Claim

func loadClaims(file string) (claims, error) {
	c := claims{}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read addresses given to pods: %w", err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return claims{}, fmt.Errorf("read addresses given to pods from %s: %w", file, err)
	}
	return c, nil
}

func (c claims) save(file string) error {
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("save addresses given to pods: %w", err)
	}
	if err := atomicfile.Write(file, data, 0o600); err != nil {
		return fmt.Errorf("save addresses given to pods: %w", err)
	}
	return nil
}

// Remove removes what an Enforcer has left on this host, for when it is
// disabled.
func Remove(ctx context.Context, layout paths.Layout) error {
	var table kernel.Table
	if err := table.Remove(ctx); err != nil {
		return err
	}
	for _, file := range []string{layout.NetworkPolicyClaims(), layout.NetworkPolicySocket()} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what network policies have left: %w", err)
		}
	}
	return nil
}
