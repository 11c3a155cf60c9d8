package gateway

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/klog/v2"
	v1 "sigs.k8s.io/gateway-api/apis/v1"
	api "sigs.k8s.io/gateway-api/pkg/client/clientset/versioned/typed/apis/v1"

	"skiff/internal/signal"
	"skiff/pkg/kube/reconcile"
)

const (
	// versionAnnotation of a CustomResourceDefinition is the version of the
	// Gateway API that it is from.
	versionAnnotation = "gateway.networking.k8s.io/bundle-version"
	// supportedVersion is the one this package was written for.
	supportedVersion = "v1.6."

	// acceptRetry is when a class that could not be accepted is looked at again.
	acceptRetry = 5 * time.Second
)

var (
	definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	definition  = "gatewayclasses." + v1.GroupName
)

// AcceptClasses writes the status of our GatewayClasses until ctx ends. Unlike a
// Source it runs all the time: users and tools look for an accepted class
// before they make the first Gateway. It costs one watch.
func AcceptClasses(ctx context.Context, o Options) error {
	client, err := newClient(o.Config)
	if err != nil {
		return err
	}
	names, err := metadata.NewForConfig(metadata.ConfigFor(o.Config))
	if err != nil {
		return fmt.Errorf("make metadata client: %w", err)
	}
	changed := signal.New()
	classes := newStore[*v1.GatewayClass](changed.Send)
	var wg sync.WaitGroup
	defer wg.Wait()
	follow(klog.NewContext(ctx, klog.Background()), &wg, client.GatewayClasses(), classes, &v1.GatewayClass{})
	reconcile.Loop{
		Changed: changed, Retry: acceptRetry, Failed: "cannot accept all GatewayClasses", Logger: o.Logger,
		Sync: func(ctx context.Context) (time.Duration, error) {
			var errs []error
			for _, c := range classes.all() {
				if c.Spec.ControllerName == Controller {
					errs = append(errs, accept(ctx, client, names, c))
				}
			}
			return 0, errors.Join(errs...)
		},
	}.Run(ctx)
	return nil
}

// accept writes the status of one of our classes.
func accept(ctx context.Context, client *api.GatewayV1Client, names metadata.Interface, c *v1.GatewayClass) error {
	version, err := installedVersion(ctx, names)
	if err != nil {
		return fmt.Errorf("GatewayClass %s: %w", c.Name, err)
	}
	return write(ctx, "GatewayClass", client.GatewayClasses(), c, func(x *v1.GatewayClass) { setClass(x, version) })
}

// installedVersion is that of the definitions in the cluster.
func installedVersion(ctx context.Context, client metadata.Interface) (string, error) {
	d, err := client.Resource(definitions).Get(ctx, definition, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("read CustomResourceDefinition %s: %w", definition, err)
	}
	return d.Annotations[versionAnnotation], nil
}

// setClass sets the status of one of our classes. Other versions of the API are
// served as well as can be.
func setClass(c *v1.GatewayClass, version string) {
	var accepted, supported verdict
	if ref := c.Spec.ParametersRef; ref != nil {
		accepted.fail(string(v1.GatewayClassReasonInvalidParameters), "parametersRef: skiff knows no kind %s.%s", ref.Kind, ref.Group)
	}
	if !strings.HasPrefix(version, supportedVersion) {
		supported.fail(string(v1.GatewayClassReasonUnsupportedVersion), "the cluster's definitions are of version %q, skiff was made for %sx", version, supportedVersion)
	}
	set := conditions{&c.Status.Conditions, c.Generation}
	set.set(string(v1.GatewayClassConditionStatusAccepted), accepted, string(v1.GatewayClassReasonAccepted), "")
	set.set(string(v1.GatewayClassConditionStatusSupportedVersion), supported, string(v1.GatewayClassReasonSupportedVersion), "")
	var list []v1.SupportedFeature
	for _, f := range features {
		list = append(list, v1.SupportedFeature{Name: f})
	}
	if !equality.Semantic.DeepEqual(c.Status.SupportedFeatures, list) {
		c.Status.SupportedFeatures = list
	}
}
