package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/pkg/config"
	"skiff/pkg/upgrade"
)

const (
	// stall is for how long a download may bring nothing.
	stall = time.Minute
	// clusterLimit is how long the cluster has to say which versions it has.
	clusterLimit = 15 * time.Second
)

// openUpgrade opens what a person has named: a file, an address, or a version.
func openUpgrade(ctx context.Context, name string) (io.ReadCloser, error) {
	switch {
	case strings.HasPrefix(name, "http://"), strings.HasPrefix(name, "https://"):
		return download(ctx, name)
	case strings.HasPrefix(name, "file://"):
		return os.Open(strings.TrimPrefix(name, "file://"))
	}
	f, err := os.Open(name)
	if err == nil {
		return f, nil
	}
	looks := regexp.MustCompile(`^v?[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+-]*$`)
	if !errors.Is(err, os.ErrNotExist) || !looks.MatchString(name) || strings.HasSuffix(name, ".skiff") {
		return nil, fmt.Errorf("open the upgrade file: %w", err)
	}
	return openVersion(ctx, "v"+strings.TrimPrefix(name, "v"))
}

// openVersion looks for a version where this skiff came from.
func openVersion(ctx context.Context, wanted string) (io.ReadCloser, error) {
	file := installedLayout().ReleaseURL()
	text, err := os.ReadFile(file)
	base := strings.TrimSpace(string(text))
	if err != nil || base == "" {
		return nil, fmt.Errorf("find version %s: %s does not say where this skiff came from; name a file or an address instead, such as %s", wanted, file, upgradeName(wanted))
	}
	var errs []error
	for _, parts := range [][]string{{wanted, upgradeName(wanted)}, {upgradeName(wanted)}} {
		var r io.ReadCloser
		if strings.HasPrefix(base, "http://") || strings.HasPrefix(base, "https://") {
			r, err = download(ctx, strings.TrimRight(base, "/")+"/"+strings.Join(escaped(parts), "/"))
		} else {
			r, err = os.Open(filepath.Join(append([]string{strings.TrimPrefix(base, "file://")}, parts...)...))
		}
		if err == nil {
			return r, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("find version %s: %w", wanted, errors.Join(errs...))
}

func escaped(parts []string) []string {
	var out []string
	for _, p := range parts {
		out = append(out, url.PathEscape(p))
	}
	return out
}

// download reads from an address; it ends when nothing has come for a while.
func download(ctx context.Context, address string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(stall, func() { cancel(fmt.Errorf("nothing has come for %s", stall)) })
	fail := func(err error) error {
		timer.Stop()
		cancel(nil)
		return fmt.Errorf("download %s: %w", address, err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fail(err)
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fail(err)
	}
	if reply.StatusCode != http.StatusOK {
		return nil, fail(errors.Join(errors.New(reply.Status), reply.Body.Close()))
	}
	return &stallReader{reply.Body, timer, cancel}, nil
}

// stallReader puts the end off whenever something comes.
type stallReader struct {
	io.ReadCloser
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

// Read implements io.Reader.
func (r *stallReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if n > 0 {
		r.timer.Reset(stall)
	}
	return n, err
}

// Close implements io.Closer.
func (r *stallReader) Close() error {
	r.timer.Stop()
	r.cancel(nil)
	return r.ReadCloser.Close()
}

// neighbours asks the cluster which versions are in it.
func (i *incumbent) neighbours(ctx context.Context, say func(string, ...any)) upgrade.Neighbours {
	ctx, cancel := context.WithTimeout(ctx, clusterLimit)
	defer cancel()
	n := upgrade.Neighbours{Agent: i.role == config.RoleAgent}
	var err error
	if n.Agent {
		n.Server, err = serverVersion(ctx, filepath.Join(i.cfg.Paths.AgentCred(), "skiff-agent.kubeconfig"))
	} else {
		n.Oldest, err = i.oldestNode(ctx)
	}
	if err != nil {
		say("The cluster could not be asked which versions are in it: %v.", err)
	}
	return n
}

func clusterClient(kubeconfig string) (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.Timeout = clusterLimit
	return cfg, nil
}

func serverVersion(ctx context.Context, kubeconfig string) (string, error) {
	cfg, err := clusterClient(kubeconfig)
	if err != nil {
		return "", err
	}
	client, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return "", err
	}
	text, err := client.RESTClient().Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		return "", err
	}
	var v version.Info
	if err := json.Unmarshal(text, &v); err != nil {
		return "", fmt.Errorf("read the server's version: %w", err)
	}
	return v.GitVersion, nil
}

// oldestNode is the oldest version of Kubernetes on the other nodes.
func (i *incumbent) oldestNode(ctx context.Context) (string, error) {
	cfg, err := clusterClient(i.cfg.Server.WriteKubeconfig)
	if err != nil {
		return "", err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return "", err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	var versions []string
	for _, node := range nodes.Items {
		if node.Name != i.cfg.Node.Name {
			versions = append(versions, node.Status.NodeInfo.KubeletVersion)
		}
	}
	return upgrade.Oldest(versions), nil
}
