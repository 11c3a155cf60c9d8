package roots

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

func TestPool(t *testing.T) {
	n := 0
	for root := range bundle.Roots() {
		n++
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			t.Errorf("authority %d: %v", n, err)
			continue
		}
		if root.Constraint != nil {
			continue
		}
		// A root vouches for itself, if the pool has it.
		options := x509.VerifyOptions{Roots: pool(), CurrentTime: certificate.NotBefore.AddDate(0, 0, 1), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
		if n <= 3 {
			if _, err := certificate.Verify(options); err != nil {
				t.Errorf("authority %d, %s: %v", n, certificate.Subject, err)
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d authorities", n)
	}
}

func TestAnyExists(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing")
	if !anyExists([]string{missing, there}) || anyExists([]string{missing}) || anyExists(nil) {
		t.Error("anyExists is wrong about files that are there or missing")
	}
}
