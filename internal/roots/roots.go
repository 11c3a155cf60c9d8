// Package roots gives a host without certificate authorities some to trust:
// Mozilla's, as they were when skiff was built. Registries can be reached from
// a container image that is nothing but skiff, and from a system too small for
// its distribution's package. It never adds to what a host trusts, and knows
// nothing about who connects where. Start reading at Fallback.
package roots

import (
	"crypto/x509"
	"os"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Fallback makes the process trust the built-in authorities if none of the
// files exists. It may be called once in a process, before its first
// connection. Where there is a file, which is nearly everywhere, it costs
// a system call.
func Fallback(files []string) {
	// Who names a place by hand gets what is there, even if that is nothing.
	if os.Getenv("SSL_CERT_FILE") != "" || os.Getenv("SSL_CERT_DIR") != "" || anyExists(files) {
		return
	}
	x509.SetFallbackRoots(pool())
}

func anyExists(files []string) bool {
	for _, name := range files {
		if _, err := os.Stat(name); err == nil {
			return true
		}
	}
	return false
}

func pool() *x509.CertPool {
	p := x509.NewCertPool()
	for root := range bundle.Roots() {
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			continue // the test parses them all
		}
		if root.Constraint == nil {
			p.AddCert(certificate)
		} else {
			p.AddCertWithConstraint(certificate, root.Constraint)
		}
	}
	return p
}
