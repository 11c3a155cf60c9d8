package join

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMachine(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	uuid := file("uuid", "4C4C4544-0042-3510-8052-B4C04F4A4D32\n")
	pi := file("serial", "10000000abcdef12\x00")
	a, b := Machine(filepath.Join(dir, "none"), uuid, pi), Machine(pi)
	if len(a) != 32 || len(b) != 32 || a == b || a != Machine(uuid) {
		t.Errorf("%q and %q", a, b)
	}
	for name, content := range map[string]string{
		"zeros": "00000000-0000-0000-0000-000000000000", "words": "Not Settable", "short": "1234", "empty": "", "ones": "FFFFFFFFFFFF",
	} {
		if got := Machine(file(name, content)); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
}
