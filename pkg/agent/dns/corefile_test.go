package dns

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coredns/caddy"
	"github.com/google/go-cmp/cmp"

	"skiff/internal/testkit"
)

// someAdaptation is what the golden files were made with. The kubeconfig and the
// directory exist so that CoreDNS itself accepts the result.
func someAdaptation() adaptation {
	return adaptation{
		Listen: []netip.AddrPort{netip.MustParseAddrPort("10.42.0.1:10053")}, Dir: "testdata/dir", Kubeconfig: "testdata/kubeconfig",
		Resolvers: []string{"192.0.2.1", "2001:db8::1"},
	}
}

func TestAdaptGolden(t *testing.T) {
	register()
	files, err := filepath.Glob("testdata/*.corefile")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".corefile")
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			a := someAdaptation()
			if strings.HasPrefix(name, "alone") {
				a.Resolvers = nil
			}
			if strings.HasSuffix(name, "acl") {
				a.Allow = []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00::/8")}
			}
			got, err := adapt(string(b), a)
			if err != nil {
				t.Fatal(err)
			}
			testkit.Golden(t, "testdata/"+name+".golden", got)
			in := caddy.CaddyfileInput{Filepath: "Corefile", Contents: []byte(got), ServerTypeName: "dns"}
			if err := caddy.ValidateAndExecuteDirectives(in, nil, true); err != nil {
				t.Errorf("CoreDNS does not accept it: %v", err)
			}
		})
	}
}

func TestDefaultCorefileIsTheGoldenOne(t *testing.T) {
	b, err := os.ReadFile("testdata/default.corefile")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(b), defaultCorefile("cluster.local")); d != "" {
		t.Errorf("testdata/default.corefile (-want +got):\n%s", d)
	}
}

func TestAdaptRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "no server block"},
		{"unknown directive", ".:53 {\n  kubernets cluster.local\n}\n", "kubernets"},
		{"our own name", ".:53 {\n  skiff_kubernetes cluster.local\n}\n", "skiff_kubernetes"},
		{"import of a host file", "import /etc/shadow\n.:53 {\n  errors\n}\n", "import /etc/shadow"},
		{"import that climbs out", ".:53 {\n  import /etc/coredns/custom/../../../../etc/passwd\n}\n", "only files below"},
		{"relative import", ".:53 {\n  import ../x\n}\n", "only files below"},
		{"hosts of the host", ".:53 {\n  hosts /root/secret\n}\n", "hosts /root/secret"},
		{"unclosed block", ".:53 {\n  errors\n", "Corefile"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := adapt(tt.text, someAdaptation())
			if err == nil {
				t.Fatalf("accepted as:\n%s", got)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not name %q", err, tt.want)
			}
		})
	}
}

func TestWithPort(t *testing.T) {
	for in, want := range map[string]string{
		".": ".:10053", ".:53": ".:10053", "dns://.:53": "dns://.:10053", "example.org": "example.org:10053",
		"example.org:5353": "example.org:5353", "tls://example.org": "tls://example.org", "2001:db8::/32": "2001:db8::/32:10053",
	} {
		if got := withPort(in, 10053); got != want {
			t.Errorf("withPort(%q) = %q, want %q", in, got, want)
		}
	}
}
