package cli

import "testing"

func TestBeforeData(t *testing.T) {
	for before, want := range map[string]string{
		"": "", "/": "", "/agent": "", "/agent/server": "", "/lost+found/agent": "/lost+found", "/mine/yours": "/mine/yours", "/*": "/*",
	} {
		if got := beforeData(before); got != want {
			t.Errorf("%q: %q, want %q", before, got, want)
		}
	}
}
