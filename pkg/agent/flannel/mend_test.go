package flannel

import "testing"

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
