package cli

import (
	"fmt"
	"os"

	"skiff/pkg/config"
	"skiff/pkg/notify"
)

// searchPayloadFirst puts the staged helper executables at the front of this
// process's PATH. kube-proxy finds nft by name only (sigs.k8s.io/knftables,
// exec.LookPath), and nft's output format differs between versions, so the one
// that was tested with this skiff must win over the host's. It is called once,
// before any goroutine that might look at the environment.
func searchPayloadFirst(cfg config.Completed) error {
	path := cfg.Paths.Bin()
	if old := os.Getenv("PATH"); old != "" {
		path += string(os.PathListSeparator) + old
	}
	if err := os.Setenv("PATH", path); err != nil { //nolint:forbidigo // knftables looks nft up in PATH and takes no value
		return fmt.Errorf("put %s into PATH: %w", cfg.Paths.Bin(), err)
	}
	return nil
}

// takeNotifySocket returns the service manager's socket and removes it from
// the environment: the kubelet in this process would otherwise tell systemd
// READY=1 as soon as it has started itself (cmd/kubelet/app/server.go,
// daemon.SdNotify), long before the node can run a pod.
func takeNotifySocket() (notify.Notifier, error) {
	const name = "NOTIFY_SOCKET"
	n := notify.Notifier(os.Getenv(name))
	if err := os.Unsetenv(name); err != nil { //nolint:forbidigo // the kubelet looks there and takes no value
		return "", fmt.Errorf("keep %s from the kubelet: %w", name, err)
	}
	return n, nil
}
