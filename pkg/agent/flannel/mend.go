package flannel

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"

	"skiff/pkg/paths"
)

// mendBridge makes the bridge again when somebody has deleted it, which is
// widely advised against troubles of other pod networks, and plugs the pods
// that run into it. Otherwise it changes nothing.
func (f *Flannel) mendBridge(n network) error {
	var missing netlink.LinkNotFoundError
	if _, err := netlink.LinkByName(Bridge); !errors.As(err, &missing) {
		return nil
	}
	if err := ensureBridge(n); err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(Bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", Bridge, err)
	}
	plugged := 0
	var errs []error // One pod must not keep the others out.
	for _, p := range f.readPlugs(paths.CNICache) {
		link, err := netlink.LinkByName(p.link)
		if err != nil || link.Type() != "veth" || link.Attrs().MasterIndex != 0 {
			continue // its pod is gone, or it is somewhere else now
		}
		if plugged == 0 {
			// The pods need not learn another address of their gateway.
			err = netlink.LinkSetHardwareAddr(bridge, p.gateway)
		}
		if err := errors.Join(err, netlink.LinkSetMaster(link, bridge), netlink.LinkSetHairpin(link, true)); err != nil {
			errs = append(errs, fmt.Errorf("plug %s into bridge %s: %w", p.link, Bridge, err))
			continue
		}
		plugged++
	}
	f.Logger.Warn("somebody has deleted the pods' bridge; it has been made again", "bridge", Bridge, "pods", plugged)
	if err := f.routeServices(); err != nil {
		f.Logger.Debug("Services cannot be routed yet", "error", err)
	}
	return errors.Join(errs...)
}

// plug is how a pod was connected to the bridge.
type plug struct {
	link    string           // the host's end of the pod's interface
	gateway net.HardwareAddr // the bridge's
}

// readPlugs reads what the CNI library remembers of the pods. A power cut may
// have left a file empty; its pod is gone.
func (f *Flannel) readPlugs(cache string) []plug {
	files, _ := filepath.Glob(filepath.Join(cache, networkName+"-*")) // the pattern is good
	var plugs []plug
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // a pod that has just gone
		}
		p, err := parsePlug(text)
		if err != nil {
			f.Logger.Warn("a result of the network plug-ins cannot be read; its pod, if there is one, has no network", "file", file, "error", err)
			continue
		}
		if p.link != "" && p.gateway != nil {
			plugs = append(plugs, p)
		}
	}
	return plugs
}

func parsePlug(text []byte) (p plug, err error) {
	var entry struct {
		Result struct {
			Interfaces []struct{ Name, Mac, Sandbox string }
		}
	}
	if err := json.Unmarshal(text, &entry); err != nil {
		return plug{}, err
	}
	for _, i := range entry.Result.Interfaces {
		switch {
		case i.Name == Bridge:
			if p.gateway, err = net.ParseMAC(i.Mac); err != nil {
				return plug{}, err
			}
		case i.Sandbox == "":
			p.link = i.Name
		}
	}
	return p, nil
}
