package deploy

import "k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

// addOnDefinition is the CustomResourceDefinition of AddOn.
func addOnDefinition() *unstructured.Unstructured {
	text := map[string]any{"type": "string"}
	object := func(properties map[string]any) map[string]any {
		return map[string]any{"type": "object", "properties": properties}
	}
	list := func(item map[string]any) map[string]any { return map[string]any{"type": "array", "items": item} }
	column := func(name, path string) any {
		return map[string]any{"name": name, "type": "string", "jsonPath": path}
	}
	schema := object(map[string]any{
		"spec": object(map[string]any{
			"source":   map[string]any{"type": "string", "description": "The file, or bundled:NAME for one of skiff's own."},
			"checksum": map[string]any{"type": "string", "description": "SHA-256 of the contents last tried."},
		}),
		"status": object(map[string]any{
			"conditions": list(object(map[string]any{"type": text, "status": text, "reason": text, "message": text})),
			"objects":    list(object(map[string]any{"apiVersion": text, "kind": text, "namespace": text, "name": text})),
		}),
	})
	schema["description"] = "AddOn tracks one file of the manifest directory of skiff."
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": addOnCRD},
		"spec": map[string]any{
			"group": addOnKind.Group, "scope": "Namespaced",
			"names": map[string]any{"kind": addOnKind.Kind, "listKind": "AddOnList", "plural": "addons", "singular": "addon"},
			"versions": []any{map[string]any{
				"name": addOnKind.Version, "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": schema},
				"additionalPrinterColumns": []any{
					column("Source", ".spec.source"),
					column("Applied", `.status.conditions[?(@.type=="Applied")].status`),
				},
			}},
		},
	}}
}
