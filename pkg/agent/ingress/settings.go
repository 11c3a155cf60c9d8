package ingress

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// settings are those of the ConfigMap kube-system/skiff-ingress, which a user may
// make; see docs/ingress.md.
type settings struct {
	trusted   []netip.Prefix
	accessLog bool
	// certificate is the Secret of the default certificate, if it is the user's.
	certificate types.NamespacedName
	acme        acmeSettings
	problems    []string
}

// acmeSettings say which authority gives certificates.
type acmeSettings struct {
	directory, email string
	// roots verify the authority; nil are the system's.
	roots *x509.CertPool
	// ca is what roots were made of.
	ca string
}

// readSettings reads the ConfigMap; nil is none. What makes no sense is said and
// left out.
func readSettings(c *corev1.ConfigMap) settings {
	var s settings
	if c == nil {
		return s
	}
	bad := func(key, format string, args ...any) {
		s.problems = append(s.problems, fmt.Sprintf("key %s of ConfigMap %s/%s: ", key, c.Namespace, c.Name)+fmt.Sprintf(format, args...))
	}
	for key, value := range c.Data {
		value = strings.TrimSpace(value)
		switch key {
		case "trusted-proxies":
			for part := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
				p, err := netip.ParsePrefix(part)
				if err != nil {
					bad(key, "%q is not a range like 10.0.0.0/8", part)
					continue
				}
				s.trusted = append(s.trusted, p.Masked())
			}
		case "access-log":
			on, err := strconv.ParseBool(value)
			if err != nil {
				bad(key, "%q is neither true nor false", value)
			}
			s.accessLog = on
		case "default-certificate":
			ns, name, ok := strings.Cut(value, "/")
			if !ok {
				bad(key, "%q is not namespace/name of a Secret", value)
				continue
			}
			s.certificate = types.NamespacedName{Namespace: ns, Name: name}
		case "acme-email":
			s.acme.email = value
		case "acme-directory":
			if u, err := url.Parse(value); err != nil || u.Scheme != "https" {
				bad(key, "%q is not an https URL", value)
				continue
			}
			s.acme.directory = value
		case "acme-ca":
			s.acme.roots, s.acme.ca = x509.NewCertPool(), value
			if !s.acme.roots.AppendCertsFromPEM([]byte(value)) {
				bad(key, "it holds no certificate in PEM form")
				s.acme.roots = nil
			}
		default:
			bad(key, "it is not known and has no effect")
		}
	}
	return s
}
