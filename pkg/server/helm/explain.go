package helm

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// problem is an error for the person whose chart it is.
type problem struct {
	reason string // of the condition and the event
	text   string
	err    error // what was said below, may be nil
	// refused means that trying again changes nothing by itself.
	refused bool
}

// Error implements error.
func (p *problem) Error() string {
	if p.err == nil {
		return p.text
	}
	return p.text + ": " + p.err.Error()
}

// Unwrap lets errors.Is see what is below.
func (p *problem) Unwrap() error { return p.err }

// The reasons of the condition Ready when it is false.
const (
	reasonSpec        = "InvalidSpec"
	reasonValues      = "InvalidValues"
	reasonChart       = "InvalidChart"
	reasonUnavailable = "ChartUnavailable"
	reasonTemplate    = "TemplateFailed"
	reasonOwner       = "ObjectExists"
	reasonConflict    = "FieldConflict"
	reasonImmutable   = "ImmutableField"
	reasonKind        = "UnknownKind"
	reasonNamespace   = "NamespaceMissing"
	reasonRefused     = "RefusedByAPI"
	reasonHook        = "HookFailed"
	reasonTimeout     = "Timeout"
	reasonFailed      = "HelmFailed"
)

func badSpec(format string, args ...any) error {
	return &problem{reason: reasonSpec, text: fmt.Sprintf(format, args...), refused: true}
}

func badValues(err error, format string, args ...any) error {
	return &problem{reason: reasonValues, text: fmt.Sprintf(format, args...), err: err, refused: true}
}

func badChart(err error, format string, args ...any) error {
	return &problem{reason: reasonChart, text: fmt.Sprintf(format, args...), err: err, refused: true}
}

func unavailable(err error, format string, args ...any) error {
	return &problem{reason: reasonUnavailable, text: fmt.Sprintf(format, args...), err: err}
}

// saying is how Helm or the API says something, by a part of its sentence; they
// have no types for it.
type saying struct {
	part    string
	reason  string
	text    string
	refused bool
}

var sayings = []saying{
	{"values don't meet the specifications of the schema", reasonValues, "the chart does not accept these values", true},
	{"failed pre-", reasonHook, "a Job or Pod that the chart runs beforehand did not succeed; `kubectl get jobs,pods` in its namespace shows it", false},
	{"failed post-", reasonHook, "a Job or Pod that the chart runs afterwards did not succeed; `kubectl get jobs,pods` in its namespace shows it", false},
	{"hooks failed", reasonHook, "a Job or Pod that the chart runs on upgrades did not succeed; `kubectl get jobs,pods` in its namespace shows it", false},
	{"field is immutable", reasonImmutable, "a field has changed that Kubernetes does not let change; delete the object, or set spec.failurePolicy: reinstall to have the whole chart uninstalled and installed anew", true},
	{"updates to statefulset spec for fields other than", reasonImmutable, "a field of a StatefulSet has changed that Kubernetes does not let change; delete the object, or set spec.failurePolicy: reinstall", true},
	{"invalid ownership metadata", reasonOwner, "an object of the chart exists already and belongs to somebody else; delete it, or set spec.takeOwnership: true", true},
	{"conflict occurred while applying", reasonConflict, "somebody else has set fields that the chart sets, too; set spec.forceConflicts: true to overrule them", true},
	{"Apply failed with", reasonConflict, "somebody else has set fields that the chart sets, too; set spec.forceConflicts: true to overrule them", true},
	{"no matches for kind", reasonKind, "the chart has objects of a kind that this cluster does not know; install its CustomResourceDefinitions first", false},
	{"resource mapping not found", reasonKind, "the chart has objects of a kind that this cluster does not know; install its CustomResourceDefinitions first", false},
	{"execution error at", reasonTemplate, "the chart's templates refuse these values", true},
	{"parse error at", reasonTemplate, "the chart's templates are broken", true},
	{"error calling", reasonTemplate, "the chart's templates do not work with these values", true},
	{"at <", reasonTemplate, "the chart's templates do not work with these values", true},
	{"YAML parse error", reasonTemplate, "the chart's templates yield no valid YAML with these values", true},
	{"chart requires kubeVersion", reasonChart, "the chart is for another version of Kubernetes", true},
	{"context deadline exceeded", reasonTimeout, "it took longer than spec.timeout", false},
	{"is invalid:", reasonRefused, "the API refuses an object of the chart", true},
	{"field not declared in schema", reasonRefused, "an object of the chart has a field that Kubernetes does not know", true},
	{"failed to create typed patch object", reasonRefused, "an object of the chart has a field with a value that Kubernetes does not take there", true},
	{"strict decoding error", reasonRefused, "an object of the chart has a field that Kubernetes does not know", true},
	{"is forbidden:", reasonRefused, "the API does not allow an object of the chart", true},
	{"denied the request", reasonRefused, "an admission webhook or policy denied an object of the chart", true},
}

// explain makes a problem of what Helm returned.
func explain(err error, namespace string) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	said := err.Error()
	if apierrors.IsNotFound(err) && strings.Contains(said, fmt.Sprintf("namespaces %q not found", namespace)) {
		return &problem{reason: reasonNamespace, text: "the namespace does not exist; make it, or set spec.createNamespace: true", err: err}
	}
	for _, s := range sayings {
		if strings.Contains(said, s.part) {
			return &problem{reason: s.reason, text: s.text, err: err, refused: s.refused}
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &problem{reason: reasonTimeout, text: "it took longer than spec.timeout", err: err}
	}
	return &problem{reason: reasonFailed, text: "Helm did not succeed", err: err}
}

// apiTrouble reports whether the API itself is out of reach, which is nobody's
// fault and not to be told about a chart.
func apiTrouble(err error) bool {
	if _, ok := errors.AsType[*problem](err); ok {
		return false
	}
	return apierrors.IsServerTimeout(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsTooManyRequests(err) ||
		strings.Contains(err.Error(), "cluster unreachable") || strings.Contains(err.Error(), "cluster reachability check failed")
}
