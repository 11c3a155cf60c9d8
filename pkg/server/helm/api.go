package helm

import (
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The kinds are K3s' own, so that its users' files work as they are;
// manifests/helm-controller.yaml defines them.
const group = "helm.cattle.io/v1"

var (
	charts     = schema.GroupVersionResource{Group: "helm.cattle.io", Version: "v1", Resource: "helmcharts"}
	configs    = schema.GroupVersionResource{Group: "helm.cattle.io", Version: "v1", Resource: "helmchartconfigs"}
	secrets    = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
)

// finalizer keeps a HelmChart until its release is uninstalled.
const finalizer = "helm.skiff.dev/uninstall"

// helmChart is what this package reads of a HelmChart.
type helmChart struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   chartSpec   `json:"spec"`
	Status chartStatus `json:"status"`
}

// reference names a Secret or ConfigMap of the chart's namespace.
type reference struct {
	Name string `json:"name"`
}

// overrides are the fields that a HelmChartConfig may have, too.
type overrides struct {
	Values         map[string]any `json:"values,omitempty"`
	ValuesContent  string         `json:"valuesContent,omitempty"`
	ValuesSecrets  []valuesSecret `json:"valuesSecrets,omitempty"`
	FailurePolicy  string         `json:"failurePolicy,omitempty"`
	ServerSide     string         `json:"serverSide,omitempty"`
	ForceConflicts *bool          `json:"forceConflicts,omitempty"`
}

type valuesSecret struct {
	Name          string   `json:"name"`
	Keys          []string `json:"keys,omitempty"`
	IgnoreUpdates bool     `json:"ignoreUpdates,omitempty"`
}

type chartSpec struct {
	overrides

	Chart        string `json:"chart,omitempty"`
	ChartContent string `json:"chartContent,omitempty"`
	Version      string `json:"version,omitempty"`

	Repo                  string     `json:"repo,omitempty"`
	RepoCA                string     `json:"repoCA,omitempty"`
	RepoCAConfigMap       *reference `json:"repoCAConfigMap,omitempty"`
	AuthSecret            *reference `json:"authSecret,omitempty"`
	AuthPassCredentials   bool       `json:"authPassCredentials,omitempty"`
	DockerRegistrySecret  *reference `json:"dockerRegistrySecret,omitempty"`
	InsecureSkipTLSVerify bool       `json:"insecureSkipTLSVerify,omitempty"`
	PlainHTTP             bool       `json:"plainHTTP,omitempty"`

	Set             map[string]intstr.IntOrString `json:"set,omitempty"`
	TargetNamespace string                        `json:"targetNamespace,omitempty"`
	CreateNamespace bool                          `json:"createNamespace,omitempty"`
	TakeOwnership   bool                          `json:"takeOwnership,omitempty"`
	Timeout         *metav1.Duration              `json:"timeout,omitempty"`
	BackOffLimit    *int32                        `json:"backOffLimit,omitempty"`
}

// chartStatus is what this package writes.
type chartStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Chart and Version are those of the release, Namespace is where it is.
	Chart     string `json:"chart,omitempty"`
	Version   string `json:"version,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Revision  int    `json:"revision,omitempty"`
	// FailedHash is the hash of the plan that did not work, so that a restart
	// of skiff does not begin with trying it again.
	FailedHash string `json:"failedHash,omitempty"`
}

// chartConfig is a HelmChartConfig.
type chartConfig struct {
	Spec overrides `json:"spec"`
}

const (
	defaultTimeout      = 5 * time.Minute
	defaultBackOffLimit = 1000
)

// What to do when Helm fails.
const (
	policyReinstall = "reinstall"
	policyAbort     = "abort"
	policyRetry     = "retry"
)

// jobFields are fields that configure K3s' Jobs, and mean nothing without them.
var jobFields = []string{"jobImage", "helmVersion", "podSecurityContext", "securityContext"}

// ignored lists the fields of the object that have no effect here.
func ignored(u *unstructured.Unstructured) []string {
	spec, _, _ := unstructured.NestedMap(u.Object, "spec")
	var out []string
	for _, f := range jobFields {
		if _, ok := spec[f]; ok {
			out = append(out, f)
		}
	}
	return out
}

// decode reads an object of the API into one of the types above.
func decode(u *unstructured.Unstructured, into any) error {
	b, err := u.MarshalJSON()
	if err != nil {
		return fmt.Errorf("read %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("read %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	return nil
}

// merge puts what the HelmChartConfig says over the chart's own fields. Values
// are merged later, one after the other.
func (o *overrides) merge(c overrides) {
	if c.FailurePolicy != "" {
		o.FailurePolicy = c.FailurePolicy
	}
	if c.ServerSide != "" {
		o.ServerSide = c.ServerSide
	}
	if c.ForceConflicts != nil {
		o.ForceConflicts = c.ForceConflicts
	}
}

// releaseNamespace is where the chart's release belongs.
func (c *helmChart) releaseNamespace() string {
	if c.Spec.TargetNamespace != "" {
		return c.Spec.TargetNamespace
	}
	return c.Namespace
}

func (c *helmChart) timeout() time.Duration {
	if c.Spec.Timeout == nil || c.Spec.Timeout.Duration <= 0 {
		return defaultTimeout
	}
	return c.Spec.Timeout.Duration
}

func (c *helmChart) backOffLimit() int {
	if c.Spec.BackOffLimit == nil {
		return defaultBackOffLimit
	}
	return int(*c.Spec.BackOffLimit)
}
