package support

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"skiff/pkg/paths"
	"skiff/pkg/pki"
)

const (
	// apiTime bounds all questions to the API together: one that hangs would
	// use it up with the first.
	apiTime = 40 * time.Second
	// tryTime is for the question whether it answers at all.
	tryTime = 5 * time.Second
	// answerLimit bounds one answer in memory.
	answerLimit = 16 << 20
)

// api reads from the cluster's API, as the server's administrator or, on a
// machine without a server, as the node. It gives up for good when the API does
// not answer.
type api struct {
	url   string
	paths paths.Layout

	once    sync.Once
	secrets learned
	client  *http.Client
	until   time.Time
	err     error
}

// open makes the client, and asks whether anybody answers.
func (a *api) open(ctx context.Context) error {
	a.once.Do(func() {
		a.until = time.Now().Add(apiTime)
		if a.client == nil {
			if a.client, a.err = a.connect(); a.err != nil {
				return
			}
		}
		ctx, cancel := context.WithTimeout(ctx, tryTime)
		defer cancel()
		if _, err := a.fetch(ctx, "/version", "application/json"); err != nil {
			a.err = fmt.Errorf("the API at %s does not answer: %w", a.url, err)
		}
	})
	return a.err
}

func (a *api) connect() (*http.Client, error) {
	if a.url == "" {
		return nil, errors.New("nobody knows where the API is: the configuration is wrong")
	}
	ca, err := os.ReadFile(filepath.Join(a.paths.ServerTLS(), pki.ServerCA+".crt"))
	dir, name := a.paths.ServerTLS(), pki.ClientAdmin
	if errors.Is(err, os.ErrNotExist) {
		dir, name = a.paths.AgentTLS(), pki.ClientKubelet
		ca, err = os.ReadFile(filepath.Join(dir, pki.ServerCA+".crt"))
	}
	if err != nil {
		return nil, fmt.Errorf("find the cluster's authority: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
	if err != nil {
		return nil, fmt.Errorf("read the key for the API: %w", err)
	}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		Proxy:           nil, TLSHandshakeTimeout: tryTime, ForceAttemptHTTP2: true,
	}}, nil
}

// get returns an answer of the API.
func (a *api) get(ctx context.Context, path, accept string) ([]byte, error) {
	if err := a.open(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithDeadline(ctx, a.until)
	defer cancel()
	return a.fetch(ctx, path, accept)
}

func (a *api) fetch(ctx context.Context, path, accept string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		var status struct{ Message string }
		_ = json.Unmarshal(data, &status) // Else there is only the code.
		return nil, fmt.Errorf("%s: %s %s", strings.SplitN(path, "?", 2)[0], resp.Status, status.Message)
	}
	return data, nil
}

// list reads all objects of a kind, page by page, and hands each to fn.
func (a *api) list(ctx context.Context, path string, fn func(object map[string]any) error) error {
	for next := ""; ; {
		data, err := a.get(ctx, path+"?limit=200&continue="+next, "application/json")
		if err != nil {
			return err
		}
		var page struct {
			Metadata struct{ Continue string }
			Items    []map[string]any
		}
		if err := json.Unmarshal(data, &page); err != nil {
			return fmt.Errorf("read the list of %s: %w", path, err)
		}
		for _, item := range page.Items {
			if err := fn(item); err != nil {
				return err
			}
		}
		if next = page.Metadata.Continue; next == "" {
			return nil
		}
	}
}

// table reads a list as the API server shows it to people.
func (a *api) table(ctx context.Context, path string) (columns []string, rows [][]string, err error) {
	data, err := a.get(ctx, path+"?limit=2000", "application/json;as=Table;g=meta.k8s.io;v=v1")
	if err != nil {
		return nil, nil, err
	}
	var t struct {
		ColumnDefinitions []struct{ Name string }
		Rows              []struct {
			Cells  []any
			Object struct {
				Metadata struct{ Namespace string }
			}
		}
	}
	if err := json.Unmarshal(data, &t); err != nil {
		return nil, nil, fmt.Errorf("read the table of %s: %w", path, err)
	}
	columns = []string{"Namespace"}
	for _, c := range t.ColumnDefinitions {
		columns = append(columns, c.Name)
	}
	for _, r := range t.Rows {
		row := []string{r.Object.Metadata.Namespace}
		for _, cell := range r.Cells {
			row = append(row, oneLine(fmt.Sprint(cell)))
		}
		rows = append(rows, row)
	}
	return columns, rows, nil
}
