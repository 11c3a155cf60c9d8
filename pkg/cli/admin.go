package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/pkg/config"
)

// admin is how a command changes a running cluster: by the administrator's
// kubeconfig.
type admin struct {
	cfg    config.Completed
	file   string
	config *rest.Config
	client kubernetes.Interface
}

// adminFlags are those of commands that use newAdmin.
func adminFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "kubeconfig", EnvVars: []string{"KUBECONFIG"}, Usage: "be an administrator by this file (default: that of the server on this machine)"},
	}, someOptionFlags("data-dir")...)
}

// adminConfig reads the configuration of the server on this machine.
func adminConfig(c *cli.Context) (config.Completed, error) {
	cfg, _, err := loadOptions(c, config.RoleServer)
	return cfg, err
}

func newAdmin(c *cli.Context) (*admin, error) {
	cfg, err := adminConfig(c)
	if err != nil {
		return nil, err
	}
	a := &admin{cfg: cfg, file: c.String("kubeconfig")}
	if a.file == "" {
		a.file = cfg.Server.WriteKubeconfig
	}
	a.config, err = clientcmd.BuildConfigFromFlags("", a.file)
	if err == nil {
		err = rest.LoadTLSFiles(a.config)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no kubeconfig %s: run this on a server of the cluster, or name an administrator's with --kubeconfig", a.file)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("kubeconfig %s may not be read by you: run this as root, with sudo", a.file)
	case err != nil:
		return nil, fmt.Errorf("read kubeconfig %s: %w", a.file, err)
	}
	if a.client, err = kubernetes.NewForConfig(a.config); err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", a.file, err)
	}
	return a, nil
}

// explain says what to do when there is no server.
func (a *admin) explain(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("no skiff server answers at %s: start it, or name a kubeconfig of one that runs with --kubeconfig: %w", a.config.Host, err)
	}
	return err
}

// address is where other machines reach the server.
func (a *admin) address(ctx context.Context) (string, error) {
	u, err := url.Parse(a.config.Host)
	if err != nil {
		return "", fmt.Errorf("read kubeconfig %s: server %q: %w", a.file, a.config.Host, err)
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err != nil || !ip.IsLoopback() {
		return strings.TrimSuffix(u.String(), "/"), nil
	}
	slice, err := a.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		return "", a.explain(fmt.Errorf("look up the server's address: %w", err))
	}
	for _, e := range slice.Endpoints {
		for _, p := range slice.Ports {
			if len(e.Addresses) > 0 && p.Port != nil {
				return "https://" + net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port))), nil
			}
		}
	}
	return "", errors.New("look up the server's address: the cluster does not say it; use one by which machines reach this server")
}
