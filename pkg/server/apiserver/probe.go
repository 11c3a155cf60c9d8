package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"k8s.io/client-go/rest"
)

// maxReport bounds what is read of an answer of /readyz; it lists some forty
// checks.
const maxReport = 16 << 10

// probe asks the API server whether it is ready.
type probe struct {
	client *http.Client
	url    string
}

func newProbe(c *rest.Config) (*probe, error) {
	client, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("make client for readiness of kube-apiserver: %w", err)
	}
	return &probe{client: client, url: c.Host + "/readyz?verbose"}, nil
}

// ready returns nil, or an error that names the checks that do not pass.
func (p *probe) ready(ctx context.Context) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return fmt.Errorf("make readiness request: %w", err)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return fmt.Errorf("does not answer yet: %w", err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReport))
	if err != nil {
		return fmt.Errorf("read readiness report: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	if missing := failed(string(body)); len(missing) > 0 {
		return fmt.Errorf("waiting for %s", strings.Join(missing, ", "))
	}
	return fmt.Errorf("/readyz answers %s", resp.Status)
}

// failed returns the names of the checks that a verbose report has as failed,
// from lines such as "[-]poststarthook/x failed: reason withheld".
func failed(report string) []string {
	var names []string
	for line := range strings.Lines(report) {
		if rest, ok := strings.CutPrefix(line, "[-]"); ok {
			name, _, _ := strings.Cut(rest, " ")
			names = append(names, strings.TrimSpace(name))
		}
	}
	return names
}
