package flannel

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// TestReadPlugs has a file that a power cut has emptied among the others.
func TestReadPlugs(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"cbr0-a-eth0":  "",
		"cbr0-b-eth0":  `{"result": {"interfaces": [{"mac": "0a:83:ef:16:4f:8e", "name": "cni0"}, {"name": "vethb"}]}}`,
		"cbr0-c-eth0":  `{"result": {"interfaces": [{"name": "vethc"}]}}`,
		"other-d-eth0": `{"result": {"interfaces": [{"mac": "0a:83:ef:16:4f:8e", "name": "cni0"}, {"name": "vethd"}]}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := &Flannel{Logger: slog.New(slog.DiscardHandler)}
	if got := f.readPlugs(dir); len(got) != 1 || got[0].link != "vethb" {
		t.Errorf("readPlugs = %+v, want vethb alone", got)
	}
}

func TestParsePlug(t *testing.T) {
	const result = `{"kind": "cniCacheV1", "networkName": "cbr0", "result": {"interfaces": [
		{"mac": "0a:83:ef:16:4f:8e", "name": "cni0"},
		{"mac": "7a:d4:f2:4d:3a:b5", "name": "veth161c8b61"},
		{"mac": "92:a4:32:8c:a2:05", "name": "eth0", "sandbox": "/run/skiff/netns/cni-5b7a"}]}}`
	p, err := parsePlug([]byte(result))
	if err != nil || p.link != "veth161c8b61" || p.gateway.String() != "0a:83:ef:16:4f:8e" {
		t.Errorf("parsePlug = %+v, %v", p, err)
	}
	if p, err := parsePlug([]byte(`{"kind": "cniCacheV1"}`)); err != nil || p.link != "" {
		t.Errorf("without a result: %+v, %v", p, err)
	}
	for _, broken := range []string{"", `{"result": {"interfaces": [{"mac": "x", "name": "cni0"}]}}`} {
		if _, err := parsePlug([]byte(broken)); err == nil {
			t.Errorf("%q is no error", broken)
		}
	}
}
