package shop

import (
	"io"
	"net/http"

	"skiff/test/hosts"
)

// get asks the URL from the node itself, for the given host name.
func (s *Shop) get(url, host string) (int, string, error) {
	q, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	if host != "" {
		q.Host = host
	}
	client := hosts.HTTPClient(s.h)
	defer client.CloseIdleConnections()
	r, err := client.Do(q)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return r.StatusCode, string(body), err
}
