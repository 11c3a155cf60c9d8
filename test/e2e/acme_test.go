package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"skiff/test/hosts"
)

// TestACME lets an Ingress get its certificate from an authority, and another
// fail to with a reason.
func TestACME(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "authority"), "skiff/test/authority")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the authority: %v\n%s", err, out)
	}
	h := newHost(t, hosts.Named("notary"), hosts.WithBind(hosts.Bind{From: dir, To: "/run/authority"}))
	h.StartServer()
	h.WaitReady()
	h.Spawn(hosts.Command{Args: []string{"/run/authority/authority", h.Addr(), "/run/authority"}})
	s := newSpace(t, h, "acme")
	var ca []byte
	s.eventually("the authority", func() (err error) {
		ca, err = os.ReadFile(filepath.Join(dir, "ca.pem"))
		return err
	})
	h.Apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: skiff-ingress, namespace: kube-system}\ndata:\n" +
		"  acme-directory: https://127.0.0.1:14000/dir\n  acme-email: keeper@shop.test\n  acme-ca: |\n    " +
		strings.ReplaceAll(strings.TrimSpace(string(ca)), "\n", "\n    ") + "\n")
	site := func(name, host string) {
		s.apply(fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: %s
  annotations: {ingress.skiff.dev/acme: "true", ingress.skiff.dev/ssl-redirect: "true"}
spec:
  tls: [{hosts: ["%s"], secretName: %s-tls}]
  rules: [{host: "%s", http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: none, port: {number: 80}}}}]}}]
`, name, host, name, host))
	}
	site("good", "shop.test")
	m := &visitor{s, h.Addr()}
	s.eventually("the authority's certificate", func() error {
		if issuer := m.issuer("shop.test"); !strings.HasPrefix(issuer, "Pebble Intermediate CA") {
			return fmt.Errorf("it is from %q: %s", issuer, s.kubectl("get", "events", "-o", "jsonpath={.items[*].message}"))
		}
		return nil
	})
	if kind := s.kubectl("get", "secret", "good-tls", "-o", "jsonpath={.type}"); kind != "kubernetes.io/tls" {
		t.Errorf("the Secret is of type %q", kind)
	}
	site("bad", "shop.invalid")
	s.said("bad", "CertificateFailed", "shop.invalid", "public DNS", "trying again")
	site("wild", "*.shop.test")
	s.said("wild", "CertificateFailed", "wildcard")

	// After a restart nobody is asked again.
	before := s.kubectl("get", "secret", "good-tls", "-o", "jsonpath={.metadata.uid} {.metadata.resourceVersion}")
	h.Restart()
	s.eventually("the same certificate", func() error {
		if issuer := m.issuer("shop.test"); !strings.HasPrefix(issuer, "Pebble Intermediate CA") {
			return errors.New("it is from " + issuer)
		}
		return is(s.kubectl("get", "secret", "good-tls", "-o", "jsonpath={.metadata.uid} {.metadata.resourceVersion}"), before)
	})
}
