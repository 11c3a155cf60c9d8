package hosts

import (
	"io"
	"time"
)

// Eventually polls check until it returns nil, and fails the test with what
// and the last error when the deadline passes.
func Eventually(t T, within time.Duration, what string, check func() error) {
	t.Helper()
	err := Poll(within, check)
	if err != nil {
		t.Fatalf("waited %s for %s: %v", within, what, err)
	}
}

// Poll calls check every 100 ms until it returns nil or the time is up; it
// returns the last error then.
func Poll(within time.Duration, check func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Get fetches a URL from the given place and returns status and body.
func Get(from Dialer, url string) (int, string, error) {
	r, err := HTTPClient(from).Get(url)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return r.StatusCode, string(body), err
}
