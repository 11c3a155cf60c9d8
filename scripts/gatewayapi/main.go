// Command gatewayapi makes skiff's two forms of the Gateway API's definitions
// (standard channel) from the directory of the module that is given: the light
// one for manifests/gateway-api.yaml, with skiff's GatewayClass, and the one that
// takes its place while there are Gateways. `make gateway-api` runs it;
// docs/adr/2026-11-21-gateway-api-crds.md says why there are two.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"sigs.k8s.io/yaml"
)

const head = `# Made by scripts/gatewayapi (make gateway-api): do not edit.
# The Gateway API's kinds, standard channel, without their schemas: while there
# is a Gateway, pkg/agent/ingress/gateway puts the whole definitions in their
# place. Kinds that skiff does not serve are left out. A definition stays while it
# has objects.
`

const class = `---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata:
  name: skiff
spec:
  controllerName: skiff.dev/gateway
  description: Served by skiff itself, on the addresses of the nodes.
`

// unserved is what skiff leaves out.
const unserved = "udproutes"

const (
	versionAnnotation = "gateway.networking.k8s.io/bundle-version"
	// formAnnotation is 2.0 on whole definitions and 1.0 on light ones.
	formAnnotation = "gateway.skiff.dev/form"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: gatewayapi MODULE-DIRECTORY LIGHT.yaml WHOLE.json")
		os.Exit(2) //nolint:forbidigo // A program of its own.
	}
	if err := generate(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "gatewayapi:", err)
		os.Exit(1) //nolint:forbidigo // As above.
	}
}

func generate(module, lightFile, wholeFile string) error {
	files, err := filepath.Glob(filepath.Join(module, "config/crd/standard/gateway.networking.k8s.io_*.yaml"))
	if err != nil {
		return err
	}
	var whole []map[string]any
	light := bytes.NewBufferString(head)
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		definition := make(map[string]any)
		if err := yaml.Unmarshal(content, &definition); err != nil {
			return fmt.Errorf("parse %s: %w", file, err)
		}
		spec, _ := definition["spec"].(map[string]any)
		names, _ := spec["names"].(map[string]any)
		if definition["kind"] != "CustomResourceDefinition" || names["plural"] == unserved {
			continue
		}
		reduce(definition, spec)
		whole = append(whole, definition)
		text, err := withoutSchema(definition)
		if err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
		light.WriteString("---\n")
		light.Write(text)
	}
	light.WriteString(class)
	text, err := json.MarshalIndent(whole, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(wholeFile, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(lightFile, light.Bytes(), 0o644)
}

// reduce leaves out descriptions, versions that are not served and v1beta1 of
// what is stored as v1: each version costs the API server as much as the first.
func reduce(definition, spec map[string]any) {
	delete(definition, "status")
	meta, _ := definition["metadata"].(map[string]any)
	delete(meta, "creationTimestamp")
	if notes, ok := meta["annotations"].(map[string]any); ok {
		notes["deploy.skiff.dev/prune"] = "unused"
		notes["deploy.skiff.dev/yield-by"] = versionAnnotation + "," + formAnnotation
		notes[formAnnotation] = "2.0"
	}
	versions, _ := spec["versions"].([]any)
	versions = slices.DeleteFunc(versions, func(v any) bool {
		version, ok := v.(map[string]any)
		return ok && (version["served"] == false || version["name"] != "v1" && version["storage"] == false)
	})
	spec["versions"] = versions
	for _, v := range versions {
		version, _ := v.(map[string]any)
		holder, _ := version["schema"].(map[string]any)
		undescribe(holder["openAPIV3Schema"])
	}
}

// undescribe removes the description of a schema and of all below it; a property
// of that name stays.
func undescribe(node any) {
	schema, ok := node.(map[string]any)
	if !ok {
		return
	}
	delete(schema, "description")
	undescribe(schema["items"])
	undescribe(schema["additionalProperties"])
	properties, _ := schema["properties"].(map[string]any)
	for _, p := range properties {
		undescribe(p)
	}
	for _, list := range []string{"allOf", "anyOf", "oneOf"} {
		alternatives, _ := schema[list].([]any)
		for _, a := range alternatives {
			undescribe(a)
		}
	}
}

// withoutSchema is the light form. The default status is kept, for people to see
// that nobody has looked at an object yet.
func withoutSchema(definition map[string]any) ([]byte, error) {
	text, err := json.Marshal(definition)
	if err != nil {
		return nil, err
	}
	light := make(map[string]any)
	if err := json.Unmarshal(text, &light); err != nil {
		return nil, err
	}
	meta, _ := light["metadata"].(map[string]any)
	if notes, ok := meta["annotations"].(map[string]any); ok {
		notes[formAnnotation] = "1.0"
	}
	spec, _ := light["spec"].(map[string]any)
	versions, _ := spec["versions"].([]any)
	for _, v := range versions {
		version, _ := v.(map[string]any)
		holder, _ := version["schema"].(map[string]any)
		schema, _ := holder["openAPIV3Schema"].(map[string]any)
		open := map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
		if properties, ok := schema["properties"].(map[string]any); ok {
			if status, ok := properties["status"].(map[string]any); ok && status["default"] != nil {
				open["properties"] = map[string]any{"status": map[string]any{
					"type": "object", "x-kubernetes-preserve-unknown-fields": true, "default": status["default"],
				}}
			}
		}
		holder["openAPIV3Schema"] = open
	}
	return yaml.Marshal(light)
}
