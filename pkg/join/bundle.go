package join

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"skiff/internal/atomicfile"
	"skiff/pkg/pki"
)

// Bundle is what a node has after joining. Its files are replaced in place
// when certificates are renewed; the paths stay.
type Bundle struct {
	Node    string
	Cluster Cluster
	// RenewAt is when the first certificate should be replaced.
	RenewAt time.Time
	// Stale is why the server could not confirm the bundle just now; nil if it
	// did.
	Stale error

	tlsDir, credDir string
}

// Cert returns the path of a certificate of pki.NodeTree, or of an authority.
func (b *Bundle) Cert(name string) string { return filepath.Join(b.tlsDir, name+".crt") }

// Key returns the path of a private key.
func (b *Bundle) Key(name string) string { return filepath.Join(b.tlsDir, name+".key") }

// Kubeconfig returns the path of the kubeconfig of "kubelet", "kube-proxy" or
// "skiff-agent".
func (b *Bundle) Kubeconfig(name string) string {
	return filepath.Join(b.credDir, name+".kubeconfig")
}

// kubeconfigs maps the name of a kubeconfig to its certificate.
var kubeconfigs = map[string]string{
	"kubelet":     pki.ClientKubelet,
	"kube-proxy":  pki.ClientKubeProxy,
	"skiff-agent": pki.ClientSkiffAgent,
}

// record is the part of a bundle that is no certificate. It is written last:
// while it is missing, nothing has been joined.
type record struct {
	Version int     `json:"version"`
	Node    string  `json:"node"`
	Cluster Cluster `json:"cluster"`
	// Lifetime is that of Response.
	Lifetime int64 `json:"lifetime"`
}

const recordFile = "bundle.json"

// disk is the place where a bundle is kept.
type disk struct {
	tls       *pki.Store
	cred      string
	apiServer string
	facts     pki.Facts
	keys      map[string]crypto.Signer
}

// newDisk makes the directories, and the keys that are missing or damaged. A
// key is never replaced otherwise: renewal then changes one file, so no reader
// ever meets a certificate with the key of another.
func newDisk(store *pki.Store, cred, apiServer string, facts pki.Facts) (*disk, error) {
	d := &disk{tls: store, cred: cred, apiServer: apiServer, facts: facts, keys: map[string]crypto.Signer{}}
	d.learnLifetime(0)
	for _, dir := range []string{store.Dir, cred} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make directory of the node's identity: %w", err)
		}
	}
	for _, spec := range pki.NodeTree {
		data, err := os.ReadFile(store.KeyFile(spec.Name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read key: %w", err)
		}
		key, err := pki.ParseKey(data)
		if err != nil {
			fresh, text, err := pki.NewKey()
			if err != nil {
				return nil, err
			}
			if err := atomicfile.Write(store.KeyFile(spec.Name), text, 0o600); err != nil {
				return nil, fmt.Errorf("store key: %w", err)
			}
			key = fresh
		}
		d.keys[spec.Name] = key
	}
	if r, err := d.record(); err == nil {
		d.learnLifetime(r.Lifetime)
	}
	return d, nil
}

// record reads what was written last of an earlier join.
func (d *disk) record() (record, error) {
	var r record
	data, err := os.ReadFile(filepath.Join(d.cred, recordFile))
	if err != nil {
		return r, err //nolint:wrapcheck // The caller tells what it is about.
	}
	if err := json.Unmarshal(bytes.TrimSpace(data), &r); err != nil {
		return r, fmt.Errorf("parse %s: %w", recordFile, err)
	}
	if r.Version != Version {
		return r, fmt.Errorf("%s has version %d, expected %d", recordFile, r.Version, Version)
	}
	return r, nil
}

// learnLifetime takes over the lifetime the server gives its certificates; as
// long as it is unknown any is right.
func (d *disk) learnLifetime(seconds int64) {
	d.tls.Lifetime = pki.AuthorityLifetime
	if seconds > 0 {
		d.tls.Lifetime = time.Duration(seconds) * time.Second
	}
}

// serverCA returns the authority of an earlier join, or nil.
func (d *disk) serverCA() []byte {
	data, err := os.ReadFile(d.tls.CertFile(pki.ServerCA))
	if err != nil {
		return nil
	}
	if _, err := pki.ParseCerts(data); err != nil {
		return nil
	}
	return data
}

func (d *disk) certs(name string) []*x509.Certificate {
	data, err := os.ReadFile(d.tls.CertFile(name))
	if err != nil {
		return nil
	}
	certs, err := pki.ParseCerts(data)
	if err != nil {
		return nil
	}
	return certs
}

// clientCertificate is how the node proves who it is once it has joined, or
// nil if it has to use the token. It may have expired: with the password it is
// proof still.
func (d *disk) clientCertificate() *tls.Certificate {
	certs, key := d.certs(pki.ClientKubelet), d.keys[pki.ClientKubelet]
	if len(certs) == 0 || !owns(key, certs[0]) || certs[0].Subject.CommonName != pki.NodeTree[0].Subject(d.facts) {
		return nil
	}
	c := &tls.Certificate{PrivateKey: key, Leaf: certs[0]}
	for _, x := range certs {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c
}

func owns(key crypto.Signer, c *x509.Certificate) bool {
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(c.PublicKey)
}

// check tells why a certificate on disk has to be replaced, or "". With
// usable set, one that is merely about to expire passes.
func (d *disk) check(spec pki.Spec, usable bool) string {
	if why := d.present(spec); why != "" {
		return why
	}
	certs := d.certs(spec.Name)
	why := d.tls.Check(spec, d.facts, certs[0], d.certs(spec.Issuer))
	if now := d.tls.Now(); usable && now.After(certs[0].NotBefore) && now.Before(certs[0].NotAfter) && !now.Before(d.tls.RenewAt(certs[0])) {
		return d.tls.Misfit(spec, d.facts, certs[0], d.certs(spec.Issuer))
	}
	return why
}

// requests makes a CSR for each certificate that needs one.
func (d *disk) requests() (map[string]string, error) {
	csrs := map[string]string{}
	for _, spec := range pki.NodeTree {
		if d.check(spec, false) == "" {
			continue
		}
		csr, err := pki.NewCSR(spec, d.facts, d.keys[spec.Name])
		if err != nil {
			return nil, err
		}
		csrs[spec.Name] = string(csr)
	}
	return csrs, nil
}

// store writes an answer: authorities, certificates, kubeconfigs, and last the
// record. It reports false, and leaves out the record, if certificates are
// missing still.
func (d *disk) store(resp *Response) (bool, error) {
	d.learnLifetime(resp.Lifetime)
	for name, text := range map[string]string{pki.ServerCA: resp.ServerCA, pki.ClientCA: resp.ClientCA} {
		if _, err := pki.ParseCerts([]byte(text)); err != nil {
			return false, fmt.Errorf("the server's answer: %s: %w", name, err)
		}
		if err := atomicfile.Write(d.tls.CertFile(name), []byte(text), 0o644); err != nil {
			return false, fmt.Errorf("store %s: %w", name, err)
		}
	}
	for name, text := range resp.Certificates {
		certs, err := pki.ParseCerts([]byte(text))
		if err != nil {
			return false, fmt.Errorf("the server's answer: %.100q: %w", name, err)
		}
		key, ours := d.keys[name]
		if !ours || !owns(key, certs[0]) {
			return false, fmt.Errorf("the server's answer: %.100q is not for a key of this node", name)
		}
		if err := atomicfile.Write(d.tls.CertFile(name), []byte(text), 0o644); err != nil {
			return false, fmt.Errorf("store %s: %w", name, err)
		}
	}
	for _, spec := range pki.NodeTree {
		if d.check(spec, true) != "" {
			return false, nil
		}
	}
	if err := d.writeKubeconfigs(); err != nil {
		return false, err
	}
	data, err := json.MarshalIndent(record{Version, d.facts.NodeName, resp.Cluster, resp.Lifetime}, "", "  ")
	if err != nil {
		return false, fmt.Errorf("encode the cluster's settings: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(d.cred, recordFile), append(data, '\n'), 0o600); err != nil {
		return false, fmt.Errorf("store the cluster's settings: %w", err)
	}
	return true, nil
}

func (d *disk) writeKubeconfigs() error {
	for name, cert := range kubeconfigs {
		path := filepath.Join(d.cred, name+".kubeconfig")
		if err := atomicfile.Write(path, d.tls.KubeconfigFor(cert, d.apiServer).Bytes(), 0o600); err != nil {
			return fmt.Errorf("store kubeconfig: %w", err)
		}
	}
	return nil
}

// load returns the bundle if it is complete and valid, else why it is not.
func (d *disk) load() (*Bundle, string) {
	return d.loadWith(func(s pki.Spec) string { return d.check(s, true) })
}

// present tells why a certificate cannot be used at all, or "".
func (d *disk) present(spec pki.Spec) string {
	certs := d.certs(spec.Name)
	switch {
	case len(certs) == 0:
		return "missing"
	case !owns(d.keys[spec.Name], certs[0]):
		return "of another key"
	}
	return ""
}

// loadWith is load by another measure of certificates.
func (d *disk) loadWith(check func(pki.Spec) string) (*Bundle, string) {
	r, err := d.record()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "this node has not joined before"
	}
	if err != nil {
		return nil, err.Error()
	}
	if r.Node != d.facts.NodeName {
		return nil, fmt.Sprintf("it was joined as node %q", r.Node)
	}
	b := &Bundle{Node: r.Node, Cluster: r.Cluster, tlsDir: d.tls.Dir, credDir: d.cred}
	for _, spec := range pki.NodeTree {
		if why := check(spec); why != "" {
			return nil, spec.Name + ": " + why
		}
		if at := d.tls.RenewAt(d.certs(spec.Name)[0]); b.RenewAt.IsZero() || at.Before(b.RenewAt) {
			b.RenewAt = at
		}
	}
	for name := range kubeconfigs {
		if info, err := os.Stat(b.Kubeconfig(name)); err != nil || info.Size() == 0 {
			return nil, name + ".kubeconfig is missing"
		}
	}
	return b, ""
}

// StoredCluster reads what a node remembers of its cluster beside its
// kubeconfigs, and how long that cluster's certificates last. It changes nothing.
func StoredCluster(credDir string) (Cluster, time.Duration, error) {
	r, err := (&disk{cred: credDir}).record()
	return r.Cluster, time.Duration(r.Lifetime) * time.Second, err
}
