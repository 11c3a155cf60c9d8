// Package k3sdir lays out directories as K3s 1.36 does on a machine with one
// server: authorities, token, configuration, service, and a SQLite datastore
// that kine's own driver has written, with objects as the API server stores
// them. It runs no K3s. Start reading at Make.
package k3sdir

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	kinesqlite "github.com/k3s-io/kine/pkg/drivers/sqlite"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// Dirs are the directories that Make fills.
type Dirs struct {
	Data string // /var/lib/rancher/k3s
	Etc  string // /etc/rancher
	Unit string // of systemd
}

// Secret is that of the join token.
const Secret = "k3s-join-secret-0123456789"

// Password is the node's.
const Password = "0123456789abcdef0123456789abcdef"

//go:embed objects.yaml
var objects string

// Made is what tests compare with.
type Made struct {
	Kubeconfig string // of the administrator, for https://127.0.0.1:6443
	Token      string
	Revisions  map[string]int64 // by key
}

// Make lays everything out. IMAGE in the objects is image, and NODE the node's
// name.
func Make(ctx context.Context, d Dirs, image, node string) (*Made, error) {
	m := &Made{Revisions: make(map[string]int64)}
	if err := m.identity(d); err != nil {
		return nil, fmt.Errorf("make authorities: %w", err)
	}
	text := strings.NewReplacer("IMAGE", image, "NODE", node, "DATA", d.dataOnHost()).Replace(objects)
	if err := m.datastore(ctx, filepath.Join(d.Data, "server", "db", "state.db"), text); err != nil {
		return nil, fmt.Errorf("make datastore: %w", err)
	}
	for file, content := range map[string]string{
		filepath.Join(d.Data, "server", "manifests", "coredns.yaml"):                       "# K3s' own\n",
		filepath.Join(d.Data, "server", "manifests", "metrics-server", "auth-reader.yaml"): "# K3s' own\n",
		filepath.Join(d.Data, "server", "manifests", "site.yaml"):                          "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: site, namespace: shop}\ndata: {from: manifest}\n",
		filepath.Join(d.Data, "server", "static", "charts", "traefik-41.0.0.tgz"):          "K3s' own",
		filepath.Join(d.Data, "server", "static", "charts", "mine-1.0.0.tgz"):              "mine",
		filepath.Join(d.Data, "storage", "pvc-1_shop_data", "note"):                        "written under k3s\n",
		filepath.Join(d.Etc, "k3s", "config.yaml"):                                         configYAML,
		filepath.Join(d.Etc, "k3s", "config.yaml.d", "10-labels.yaml"):                     "node-label+: [shelf=top]\n",
		filepath.Join(d.Etc, "k3s", "registries.yaml"):                                     "mirrors:\n  docker.io:\n    endpoint: [\"http://192.0.2.9:5000\"]\n",
		filepath.Join(d.Etc, "node", "password"):                                           Password + "\n",
		filepath.Join(d.Unit, "k3s.service"):                                               unit,
		filepath.Join(d.Unit, "k3s.service.env"):                                           "K3S_TOKEN='" + Secret + "'\nHTTPS_PROXY=http://192.0.2.8:3128\n",
	} {
		if err := write(file, content); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// dataOnHost is how the machine itself calls the data directory.
func (d Dirs) dataOnHost() string { return "/var/lib/rancher/k3s" }

const configYAML = `write-kubeconfig-mode: "0640"
node-label:
- shop=harbour
tls-san: [till.example]
disable: [metrics-server, notes]
secrets-encryption: false
etcd-snapshot-retention: 7
protect-kernel-defaults: false
snapshotter: stargz
kube-apiserver-arg: [audit-log-maxage=3]
`

const unit = `[Unit]
Description=Lightweight Kubernetes

[Service]
Type=notify
EnvironmentFile=-/etc/default/%N
EnvironmentFile=-/etc/sysconfig/%N
EnvironmentFile=-/etc/systemd/system/k3s.service.env
KillMode=process
ExecStartPre=-/sbin/modprobe br_netfilter
ExecStart=/usr/local/bin/k3s \
    server \
	'--disable' \
	'servicelb' \
	'--node-taint' \
	'a=b:PreferNoSchedule' \
	'--flannel-ipv6-masq' \

`

func write(file, content string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(content), 0o600)
}

// identity makes the authorities, the key of service accounts, the token, and
// an administrator's kubeconfig.
func (m *Made) identity(d Dirs) error {
	tls := filepath.Join(d.Data, "server", "tls")
	var serverCA []byte
	for _, name := range []string{"server-ca", "client-ca", "request-header-ca"} {
		cert, key, err := authority("k3s-" + name + "@1750000000")
		if err != nil {
			return err
		}
		certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
		if err := errors.Join(write(filepath.Join(tls, name+".crt"), string(certPEM)), writeKey(filepath.Join(tls, name+".key"), key)); err != nil {
			return err
		}
		switch name {
		case "server-ca":
			serverCA = certPEM
		case "client-ca":
			if m.Kubeconfig, err = administrator(cert, key, serverCA); err != nil {
				return err
			}
		}
	}
	service, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(service)})
	m.Token = fmt.Sprintf("K10%x::server:%s", sha256.Sum256(serverCA), Secret)
	return errors.Join(write(filepath.Join(tls, "service.key"), string(text)), write(filepath.Join(d.Data, "server", "token"), m.Token+"\n"),
		os.Symlink(filepath.Join(d.dataOnHost(), "server", "token"), filepath.Join(d.Data, "server", "node-token")))
}

func authority(name string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), err
}

func writeKey(file string, key *ecdsa.PrivateKey) error {
	text, err := keyPEM(key)
	return errors.Join(err, write(file, string(text)))
}

// administrator is the k3s.yaml that K3s writes.
func administrator(ca *x509.Certificate, caKey *ecdsa.PrivateKey, serverCA []byte) (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "system:admin", Organization: []string{"system:masters"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca, key.Public(), caKey)
	if err != nil {
		return "", err
	}
	private, err := keyPEM(key)
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- {name: default, cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: %s}}
contexts:
- {name: default, context: {cluster: default, user: default}}
current-context: default
users:
- name: default
  user: {client-certificate-data: %s, client-key-data: %s}
`, b64(serverCA), b64(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), b64(private)), err
}

// datastore writes the objects with kine's own driver.
func (m *Made) datastore(ctx context.Context, path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	_, b, err := kinesqlite.New(ctx, &wg, &drivers.Config{
		DataSourceName: path + "?_journal_mode=WAL&_busy_timeout=30000&_txlock=immediate",
		CompactTimeout: 5 * time.Second, CompactBatchSize: 1000, CompactMinRetain: 1000, PollBatchSize: 500,
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: 2, MaxOpen: 4},
	})
	if err != nil {
		return err
	}
	if err := b.Start(ctx); err != nil {
		return err
	}
	for _, doc := range strings.Split(text, "\n---\n") {
		key, value, err := stored([]byte(doc))
		if err != nil {
			return err
		}
		// Every object has a history.
		first, err := b.Create(ctx, key, []byte("{}"), 0)
		if err != nil {
			return fmt.Errorf("create %s: %w", key, err)
		}
		if m.Revisions[key], _, _, err = b.Update(ctx, key, value, first, 0); err != nil {
			return fmt.Errorf("update %s: %w", key, err)
		}
	}
	gone, err := b.Create(ctx, "/registry/configmaps/shop/deleted", []byte("{}"), 0)
	if err != nil {
		return err
	}
	if _, _, _, err := b.Delete(ctx, "/registry/configmaps/shop/deleted", gone); err != nil {
		return err
	}
	_, err = b.Create(ctx, "/bootstrap/0123456789ab", []byte("salt:secret"), 0)
	return err
}

// stored is where and how the API server keeps an object: its own kinds in
// protobuf, those of CustomResourceDefinitions as JSON.
func stored(doc []byte) (key string, value []byte, err error) {
	json, err := yaml.YAMLToJSON(doc)
	if err != nil {
		return "", nil, err
	}
	var u unstructured.Unstructured
	if err := u.UnmarshalJSON(json); err != nil {
		return "", nil, fmt.Errorf("%w in:\n%s", err, doc)
	}
	place := u.GetAnnotations()["test/key"]
	notes := u.GetAnnotations()
	delete(notes, "test/key")
	u.SetAnnotations(notes)
	if u.GetUID() == "" {
		u.SetUID(types.UID(fmt.Sprintf("%x", sha256.Sum256([]byte(place)))[:36]))
	}
	u.SetCreationTimestamp(metav1.NewTime(time.Now().Add(-time.Hour)))
	if json, err = u.MarshalJSON(); err != nil {
		return "", nil, err
	}
	key = "/registry/" + place
	o, _, err := scheme.Codecs.UniversalDeserializer().Decode(json, nil, nil)
	if runtime.IsNotRegisteredError(err) {
		return key, json, nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("%w in:\n%s", err, doc)
	}
	var b bytes.Buffer
	err = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(o, &b)
	return key, b.Bytes(), err
}
