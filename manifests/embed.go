// Package manifests holds the objects that skiff itself puts into a cluster, as
// YAML. pkg/deploy applies them, after putting values in the place of variables
// like %{CLUSTER_DNS}%. It knows nothing else; start reading at the YAML files.
package manifests

import "embed"

// FS has one file per AddOn at its root.
//
//go:embed *.yaml
var FS embed.FS
