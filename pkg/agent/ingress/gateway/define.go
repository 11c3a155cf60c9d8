package gateway

import (
	"bytes"
	"context"
	_ "embed" // definitions.json
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"skiff/internal/backoff"
	"skiff/manifests"
	"skiff/pkg/kube/demand"
)

const (
	// formAnnotation tells the whole definitions from the light ones, for which
	// pkg/deploy does not put these in their place.
	formAnnotation = "gateway.skiff.dev/form"
	// fieldManager is pkg/deploy's: it brings the light definitions, and removes
	// either.
	fieldManager = "skiff"
	// lightFile has the light definitions.
	lightFile = "gateway-api.yaml"
	// defineLinger is how long the whole definitions stay after the last Gateway.
	defineLinger = time.Minute
)

//go:embed definitions.json
var wholeDefinitions []byte

// KeepDefinitions gives the cluster the whole definitions of the Gateway API
// while there are Gateways, and the light ones that come with skiff else, until
// ctx ends: an API server that knows all schemas and rules needs some 35 MiB
// more. Definitions of other versions or of somebody else are left alone.
func KeepDefinitions(ctx context.Context, o Options) error {
	client, err := dynamic.NewForConfig(jsonConfig(o.Config))
	if err != nil {
		return fmt.Errorf("make client for definitions: %w", err)
	}
	gateways := schema.GroupVersionResource{Group: v1.GroupName, Version: "v1", Resource: "gateways"}
	keep := func(ctx context.Context, read func() ([]*unstructured.Unstructured, error)) {
		pauses := backoff.Sequence{Min: 100 * time.Millisecond, Max: 30 * time.Second}
		for ctx.Err() == nil {
			list, err := read()
			if err == nil {
				err = define(ctx, client.Resource(definitions), list)
			}
			if err == nil {
				return
			}
			o.Logger.Debug("cannot change the definitions of the Gateway API yet", "error", err)
			if pauses.Wait(ctx) != nil {
				return
			}
		}
	}
	list, err := client.Resource(gateways).List(ctx, metav1.ListOptions{Limit: 1})
	if err == nil && len(list.Items) == 0 {
		keep(ctx, light)
	}
	return demand.While(ctx, demand.Options{Config: o.Config, Resources: []schema.GroupVersionResource{gateways}, Linger: defineLinger, Logger: o.Logger},
		func(asked context.Context) error {
			keep(asked, whole)
			<-asked.Done()
			keep(ctx, light)
			return nil
		})
}

// jsonConfig speaks JSON whatever the configuration says: custom resources know
// nothing else.
func jsonConfig(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.ContentType, config.AcceptContentTypes = "application/json", "application/json"
	return config
}

// whole and light read the two forms of the definitions.
func whole() ([]*unstructured.Unstructured, error) {
	var list []map[string]any
	if err := json.Unmarshal(wholeDefinitions, &list); err != nil {
		return nil, fmt.Errorf("read the definitions of the Gateway API: %w", err)
	}
	var out []*unstructured.Unstructured
	for _, o := range list {
		out = append(out, &unstructured.Unstructured{Object: o})
	}
	return out, nil
}

func light() ([]*unstructured.Unstructured, error) {
	content, err := manifests.FS.ReadFile(lightFile)
	if err != nil {
		return nil, fmt.Errorf("read the definitions of the Gateway API: %w", err)
	}
	var out []*unstructured.Unstructured
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		o := &unstructured.Unstructured{}
		err := documents.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the definitions of the Gateway API: %w", err)
		}
		if o.GetKind() == "CustomResourceDefinition" {
			out = append(out, o)
		}
	}
}

// define applies definitions over those of skiff that are in the cluster.
func define(ctx context.Context, client dynamic.ResourceInterface, list []*unstructured.Unstructured) error {
	for _, o := range list {
		live, err := client.Get(ctx, o.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue // not brought yet, or not wanted
		}
		if err != nil {
			return fmt.Errorf("read CustomResourceDefinition %s: %w", o.GetName(), err)
		}
		if !replaces(o, live) {
			continue
		}
		if _, err := client.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
			return fmt.Errorf("apply CustomResourceDefinition %s: %w", o.GetName(), err)
		}
	}
	return nil
}

// replaces reports whether a definition should take the place of the one in the
// cluster: that is skiff's, not newer, and not the same.
func replaces(o, live *unstructured.Unstructured) bool {
	ours := slices.ContainsFunc(live.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool {
		return f.Manager == fieldManager && f.Operation == metav1.ManagedFieldsOperationApply
	})
	want, have := o.GetAnnotations(), live.GetAnnotations()
	if !ours || want[formAnnotation] == have[formAnnotation] && want[versionAnnotation] == have[versionAnnotation] {
		return false
	}
	wanted, err := utilversion.ParseGeneric(want[versionAnnotation])
	if err != nil {
		return false
	}
	there, err := utilversion.ParseGeneric(have[versionAnnotation])
	return err != nil || !wanted.LessThan(there)
}
