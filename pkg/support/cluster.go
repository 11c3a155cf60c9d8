package support

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// kinds are the objects that are shown: all as a table, some also in full.
// Secrets are not among them, and of ConfigMaps only the names.
var kinds = []struct {
	name, path string
	full       bool
}{
	{"nodes", "/api/v1/nodes", true},
	{"pods", "/api/v1/pods", true},
	{"namespaces", "/api/v1/namespaces", false},
	{"services", "/api/v1/services", true},
	{"endpointslices", "/apis/discovery.k8s.io/v1/endpointslices", true},
	{"deployments", "/apis/apps/v1/deployments", true},
	{"statefulsets", "/apis/apps/v1/statefulsets", true},
	{"daemonsets", "/apis/apps/v1/daemonsets", true},
	{"replicasets", "/apis/apps/v1/replicasets", false},
	{"jobs", "/apis/batch/v1/jobs", false},
	{"cronjobs", "/apis/batch/v1/cronjobs", false},
	{"ingresses", "/apis/networking.k8s.io/v1/ingresses", true},
	{"ingressclasses", "/apis/networking.k8s.io/v1/ingressclasses", false},
	{"networkpolicies", "/apis/networking.k8s.io/v1/networkpolicies", true},
	{"gateways", "/apis/gateway.networking.k8s.io/v1/gateways", true},
	{"httproutes", "/apis/gateway.networking.k8s.io/v1/httproutes", true},
	{"persistentvolumeclaims", "/api/v1/persistentvolumeclaims", true},
	{"persistentvolumes", "/api/v1/persistentvolumes", true},
	{"storageclasses", "/apis/storage.k8s.io/v1/storageclasses", false},
	{"volumeattachments", "/apis/storage.k8s.io/v1/volumeattachments", false},
	{"csidrivers", "/apis/storage.k8s.io/v1/csidrivers", false},
	{"configmaps", "/api/v1/configmaps", false},
	{"leases", "/apis/coordination.k8s.io/v1/leases", false},
	{"runtimeclasses", "/apis/node.k8s.io/v1/runtimeclasses", false},
	{"customresourcedefinitions", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", false},
	{"apiservices", "/apis/apiregistration.k8s.io/v1/apiservices", false},
	{"mutatingwebhooks", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", false},
	{"validatingwebhooks", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", false},
	{"addons", "/apis/skiff.dev/v1/addons", true},
	{"helmcharts", "/apis/helm.cattle.io/v1/helmcharts", true},
}

// parts are what the API says. The first of them also looks at the
// values of Secrets, only to know what must not be shown anywhere.
func (a *api) parts(podLogs bool, scrub *Scrubber) []Part {
	parts := []Part{
		{Name: "cluster/readyz.txt", Time: apiTime, Write: func(ctx context.Context, w io.Writer) error {
			data, err := a.get(ctx, "/readyz?verbose", "*/*")
			if err == nil {
				_, err = w.Write(data)
			}
			return err
		}},
		{Name: "cluster/tables.txt", Limit: 2 << 20, Time: apiTime, Write: a.writeTables},
		{Name: "cluster/events.txt", Limit: 1 << 20, Tail: true, Time: apiTime, Write: a.writeEvents},
	}
	for _, k := range kinds {
		if k.full {
			parts = append(parts, Part{Name: "cluster/" + k.name + ".json", Time: apiTime, Write: func(ctx context.Context, w io.Writer) error {
				return a.writeObjects(ctx, w, k.path)
			}})
		}
	}
	parts = append(parts, Part{Name: "logs/pods.txt", Limit: 2 << 20, Time: apiTime, Write: func(ctx context.Context, w io.Writer) error {
		return a.writePodLogs(ctx, w, podLogs)
	}})
	for i := range parts {
		write := parts[i].Write
		parts[i].Write = func(ctx context.Context, w io.Writer) error {
			if err := a.learn(ctx, scrub); err != nil {
				return err
			}
			return write(ctx, w)
		}
	}
	return parts
}

// writeTables shows every kind as `kubectl get` does.
func (a *api) writeTables(ctx context.Context, w io.Writer) error {
	for _, k := range kinds {
		columns, rows, err := a.table(ctx, k.path)
		fmt.Fprintf(w, "# %s\n", k.name)
		if err != nil {
			fmt.Fprintf(w, "%v\n\n", err)
			if ctx.Err() != nil {
				return err
			}
			continue
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, row := range append([][]string{columns}, rows...) {
			fmt.Fprintln(t, strings.Join(row, "\t"))
		}
		if err := t.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	return nil
}

// writeObjects shows all of each object but what others must not see.
func (a *api) writeObjects(ctx context.Context, w io.Writer, path string) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	enc.SetEscapeHTML(false)
	return a.list(ctx, path, func(object map[string]any) error {
		prune(object)
		return enc.Encode(object)
	})
}

// writeEvents shows the events in the order of their times.
func (a *api) writeEvents(ctx context.Context, w io.Writer) error {
	type event struct{ at, text string }
	var all []event
	err := a.list(ctx, "/api/v1/events", func(o map[string]any) error {
		about, _ := o["involvedObject"].(map[string]any)
		at := cmp.Or(text(o["lastTimestamp"]), text(o["eventTime"]), text(o["firstTimestamp"]))
		count := o["count"]
		if count == nil {
			count = 1
		}
		all = append(all, event{at, fmt.Sprintf("%s %s %s %s/%s/%s: %s (%v times)", at, text(o["type"]), text(o["reason"]),
			text(about["namespace"]), text(about["kind"]), text(about["name"]), oneLine(text(o["message"])), count)})
		return nil
	})
	slices.SortStableFunc(all, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	for _, e := range all {
		fmt.Fprintln(w, e.text)
	}
	return err
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

const (
	mostContainers = 100
	logLines       = 100
)

// writePodLogs shows the last lines of the pods that are the system's, or of
// all if the user wants that: in those of his own are his customers' affairs.
func (a *api) writePodLogs(ctx context.Context, w io.Writer, all bool) error {
	n, left := 0, 0
	err := a.list(ctx, "/api/v1/pods", func(pod map[string]any) error {
		meta, _ := pod["metadata"].(map[string]any)
		spec, _ := pod["spec"].(map[string]any)
		namespace, name := text(meta["namespace"]), text(meta["name"])
		if !all && namespace != "kube-system" {
			left++
			return nil
		}
		containers, _ := spec["containers"].([]any)
		for _, c := range containers {
			container, _ := c.(map[string]any)
			if n++; n > mostContainers {
				return fmt.Errorf("more than %d containers, the others are left out", mostContainers)
			}
			for _, which := range []string{"false", "true"} {
				path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/log?container=%s&tailLines=%d&limitBytes=65536&previous=%s", namespace, name, text(container["name"]), logLines, which)
				data, err := a.get(ctx, path, "*/*")
				if err != nil && which == "true" {
					continue // Most have no previous one.
				}
				fmt.Fprintf(w, "# %s/%s %s, previous %s\n%s\n", namespace, name, text(container["name"]), which, data)
				if err != nil {
					fmt.Fprintln(w, err)
				}
			}
		}
		return nil
	})
	if left > 0 {
		fmt.Fprintf(w, "# The logs of %d pods outside kube-system are not here; `skiff bundle --pod-logs` takes them along.\n", left)
	}
	return err
}

// learnTime bounds what is spent on knowing the cluster's secrets.
const learnTime = 10 * time.Second
