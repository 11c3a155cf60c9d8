package helm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	repo "helm.sh/helm/v4/pkg/repo/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// remote fetches charts over the network. Nothing is kept between two charts,
// and nothing is read of the credentials of the machine's own users.
type remote struct {
	client    *http.Client
	username  string
	password  string
	origin    *url.URL // what the credentials are for
	passAll   bool
	plainHTTP bool
	docker    map[string]dockerAuth
}

// dockerAuth is one registry's entry of a Secret for image pulls.
type dockerAuth struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Auth     string `json:"auth"`
}

const fetchTimeout = 2 * time.Minute

// remote reads the credentials and authorities that a chart names.
func (w *worker) remote(ctx context.Context, c *helmChart) (*remote, error) {
	s := &c.Spec
	r := &remote{passAll: s.AuthPassCredentials, plainHTTP: s.PlainHTTP}
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: s.InsecureSkipTLSVerify} //nolint:gosec // The user's own word, spec.insecureSkipTLSVerify.
	var err error
	if config.RootCAs, err = w.authorities(ctx, c); err != nil {
		return nil, err
	}
	if s.AuthSecret != nil {
		secret, err := w.getSecret(ctx, c, s.AuthSecret, "authSecret")
		if err != nil {
			return nil, err
		}
		if err := r.authenticate(secret, config); err != nil {
			return nil, err
		}
	}
	if s.DockerRegistrySecret != nil {
		secret, err := w.getSecret(ctx, c, s.DockerRegistrySecret, "dockerRegistrySecret")
		if err != nil {
			return nil, err
		}
		var file struct {
			Auths map[string]dockerAuth `json:"auths"`
		}
		if json.Unmarshal(secret.Data[corev1.DockerConfigJsonKey], &file) != nil { // The error would quote the secret.
			return nil, unavailable(nil, "Secret %s/%s of spec.dockerRegistrySecret has no valid %s", c.Namespace, secret.Name, corev1.DockerConfigJsonKey)
		}
		r.docker = file.Auths
	}
	first := s.Repo
	if first == "" {
		first = s.Chart
	}
	if r.origin, err = url.Parse(first); err != nil {
		return nil, badSpec("%q is no URL: %v", first, err)
	}
	r.client = &http.Client{Timeout: fetchTimeout, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, DisableKeepAlives: true, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 15 * time.Second, ResponseHeaderTimeout: time.Minute,
	}}
	return r, nil
}

// authorities are those of the system and those the chart names.
func (w *worker) authorities(ctx context.Context, c *helmChart) (*x509.CertPool, error) {
	pem := []byte(c.Spec.RepoCA)
	if ref := c.Spec.RepoCAConfigMap; ref != nil {
		m, err := w.kube.CoreV1().ConfigMaps(c.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, unavailable(nil, "ConfigMap %s/%s of spec.repoCAConfigMap does not exist; the chart is tried again when it does", c.Namespace, ref.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("get ConfigMap %s: %w", ref.Name, err)
		}
		for _, text := range m.Data {
			pem = append(append(pem, '\n'), text...)
		}
	}
	if len(strings.TrimSpace(string(pem))) == 0 {
		return nil, nil // The system's.
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, badSpec("spec.repoCA or the ConfigMap of spec.repoCAConfigMap has no PEM certificate")
	}
	return pool, nil
}

// authenticate takes a password, or a client's certificate, from a Secret.
func (r *remote) authenticate(s *corev1.Secret, config *tls.Config) error {
	r.username, r.password = string(s.Data[corev1.BasicAuthUsernameKey]), string(s.Data[corev1.BasicAuthPasswordKey])
	certificate, key := s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]
	if len(certificate) > 0 && len(key) > 0 {
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			return unavailable(nil, "the certificate or key in Secret %s/%s is not valid", s.Namespace, s.Name)
		}
		config.Certificates = []tls.Certificate{pair}
		return nil
	}
	if r.username == "" {
		return unavailable(nil, "Secret %s/%s of spec.authSecret has neither username and password nor tls.crt and tls.key", s.Namespace, s.Name)
	}
	return nil
}

// fetch returns the archive.
func (r *remote) fetch(ctx context.Context, s *chartSpec) ([]byte, error) {
	switch {
	case strings.HasPrefix(s.Chart, ociScheme):
		return r.fetchOCI(ctx, strings.TrimPrefix(s.Chart, ociScheme), s.Version)
	case strings.HasPrefix(s.Repo, ociScheme):
		return r.fetchOCI(ctx, strings.TrimSuffix(strings.TrimPrefix(s.Repo, ociScheme), "/")+"/"+s.Chart, s.Version)
	case s.Repo == "":
		return r.get(ctx, s.Chart, maxArchive)
	}
	at, err := r.find(ctx, s)
	if err != nil {
		return nil, err
	}
	if ref, ok := strings.CutPrefix(at, ociScheme); ok {
		return r.fetchOCI(ctx, ref, "")
	}
	return r.get(ctx, at, maxArchive)
}

// maxIndex is the largest index of a repository that is read.
const maxIndex = 128 << 20

// find looks the chart up in the index of its repository.
func (r *remote) find(ctx context.Context, s *chartSpec) (string, error) {
	at, err := repo.ResolveReferenceURL(s.Repo, "index.yaml")
	if err != nil {
		return "", badSpec("spec.repo %q is no URL: %v", s.Repo, err)
	}
	b, err := r.get(ctx, at, maxIndex)
	if err != nil {
		return "", err
	}
	index := repo.NewIndexFile()
	if err := yaml.Unmarshal(b, index); err != nil || index.APIVersion == "" {
		return "", unavailable(err, "%s is not the index of a chart repository", at)
	}
	for name, versions := range index.Entries {
		valid := versions[:0]
		for _, v := range versions {
			if v != nil && v.Metadata != nil && v.Validate() == nil {
				valid = append(valid, v)
			}
		}
		index.Entries[name] = valid
	}
	index.SortEntries()
	v, err := index.Get(s.Chart, s.Version)
	if err != nil || len(v.URLs) == 0 {
		version := s.Version
		if version == "" {
			version = "any"
		}
		return "", unavailable(nil, "the repository %s has no chart %q in version %q", s.Repo, s.Chart, version)
	}
	at, err = repo.ResolveReferenceURL(s.Repo, v.URLs[0])
	if err != nil {
		return "", unavailable(err, "the repository %s names the invalid address %q for the chart", s.Repo, v.URLs[0])
	}
	return at, nil
}

// get fetches one URL. Credentials go to the host they are for only, unless
// spec.authPassCredentials says otherwise.
func (r *remote) get(ctx context.Context, at string, limit int64) ([]byte, error) {
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return nil, badSpec("%q is no http, https or oci address", at)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, badSpec("%q is no address: %v", at, err)
	}
	if r.username != "" && (r.passAll || u.Host == r.origin.Host && u.Scheme == r.origin.Scheme) {
		req.SetBasicAuth(r.username, r.password)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, unavailable(unwrapURL(err), "%s cannot be reached", u.Redacted())
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, unavailable(nil, "%s answers %s%s", u.Redacted(), resp.Status, hintStatus(resp.StatusCode))
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, unavailable(err, "%s broke off", u.Redacted())
	}
	if int64(len(b)) > limit {
		return nil, unavailable(nil, "%s has more than %d MB", u.Redacted(), limit>>20)
	}
	return b, nil
}

func hintStatus(code int) string {
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "; check user name and password in the Secret of spec.authSecret"
	case http.StatusNotFound:
		return "; check spec.repo, spec.chart and spec.version"
	}
	return ""
}

// unwrapURL takes off the method and address that net/http puts before errors.
func unwrapURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// registryLogin returns user and password for a registry's host.
func (r *remote) registryLogin(host string) (user, password string) {
	if r.username != "" {
		return r.username, r.password
	}
	for _, key := range []string{host, "https://" + host, "http://" + host, "https://" + host + "/v1/", "https://" + host + "/v2/"} {
		a, ok := r.docker[key]
		if !ok {
			continue
		}
		if b, err := base64.StdEncoding.DecodeString(a.Auth); err == nil && a.Username == "" {
			a.Username, a.Password, _ = strings.Cut(string(b), ":")
		}
		return a.Username, a.Password
	}
	return "", ""
}
