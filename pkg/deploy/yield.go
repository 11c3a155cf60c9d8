package deploy

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/dynamic"
)

// annotationYield on an object of a manifest names other annotations, separated
// by commas, which have versions. Such an object is not applied over one that
// somebody else brought, nor over one that is newer by any of them.
const annotationYield = "deploy.skiff.dev/yield-by"

// yields says why the object in the cluster is to stay as it is, or "".
func yields(ctx context.Context, client dynamic.ResourceInterface, u *unstructured.Unstructured) (string, error) {
	names := u.GetAnnotations()[annotationYield]
	if names == "" {
		return "", nil
	}
	live, err := client.Get(ctx, u.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for a newer one: %w", err)
	}
	if !managed(live) {
		return "somebody else brought it", nil
	}
	for name := range strings.SplitSeq(names, ",") {
		if why := newer(u.GetAnnotations()[name], live.GetAnnotations()[name]); why != "" {
			return why, nil
		}
	}
	return "", nil
}

// newer says that their version is newer than ours, if it is.
func newer(ours, theirs string) string {
	own, err := utilversion.ParseGeneric(ours)
	if err != nil {
		return ""
	}
	if other, err := utilversion.ParseGeneric(theirs); err == nil && own.LessThan(other) {
		return fmt.Sprintf("its version %s is newer than %s", theirs, ours)
	}
	return ""
}

// managed reports whether skiff has applied the object.
func managed(u *unstructured.Unstructured) bool {
	for _, f := range u.GetManagedFields() {
		if f.Manager == fieldManager && f.Operation == metav1.ManagedFieldsOperationApply {
			return true
		}
	}
	return false
}
