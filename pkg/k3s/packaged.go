package k3s

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Objects says what became of the objects of the datastore.
type Objects struct {
	Kept int
	// Removed are those that K3s had made for itself, by what they were for.
	Removed []Removed
	// Mended are those that kept everything but the finalizers of K3s'
	// controllers.
	Mended int
	// Odd are keys whose value is no object; they are kept.
	Odd []string
	// Encrypted is how many are encrypted; they are kept.
	Encrypted int
	// TraefikClass says that there was an IngressClass of this name, and
	// Traefik are kinds of Traefik's own that objects exist of.
	TraefikClass bool
	Traefik      []string
	LocalPath    []string // directories of K3s' local-path volumes
}

// Removed is a group of objects that do not come along.
type Removed struct {
	Part string
	Keys []string
}

// Parts of K3s, as the report calls them.
const (
	partState   = "state that is made anew (leases, events, AddOns, node passwords)"
	partDNS     = "coredns (skiff's DNS takes its place)"
	partMetrics = "metrics-server (skiff's metrics take its place)"
	partStorage = "local-path-provisioner (skiff's takes its place)"
	partLB      = "ServiceLB's pods (skiff needs none)"
	partTraefik = "traefik (skiff's ingress takes its place)"
	partHelm    = "jobs of the Helm controller (skiff needs none)"
	partOther   = "K3s' own roles and classes"
)

// packaged are K3s' own AddOns, by the names of their files.
var packaged = map[string]string{
	"coredns": partDNS, "local-storage": partStorage, "traefik": partTraefik,
	"aggregated-metrics-reader": partMetrics, "auth-delegator": partMetrics, "auth-reader": partMetrics, "metrics-apiservice": partMetrics,
	"metrics-server-deployment": partMetrics, "metrics-server-service": partMetrics, "resource-reader": partMetrics,
	"ccm": partOther, "rolebindings": partOther, "runtimes": partOther,
}

// What K3s' controllers write to the objects they make.
const (
	ownerKind = "objectset.rio.cattle.io/owner-gvk"
	ownerName = "objectset.rio.cattle.io/owner-name"
	lbLabel   = "svccontroller.k3s.cattle.io/svcname"
	release   = "meta.helm.sh/release-name"
	releaseIn = "meta.helm.sh/release-namespace"
)

// beginnings of keys that do not come along.
var beginnings = []struct{ key, part string }{
	{"/registry/health", partState},
	{"/registry/events/", partState},
	{"/registry/leases/", partState},
	{"/registry/masterleases/", partState},
	{"/registry/k3s.cattle.io/", partState},
	{"/registry/apiextensions.k8s.io/customresourcedefinitions/addons.k3s.cattle.io", partState},
	{"/registry/apiextensions.k8s.io/customresourcedefinitions/etcdsnapshotfiles.k3s.cattle.io", partState},
	{"/registry/secrets/kube-system/k3s-serving", partState},
	{"/registry/configmaps/kube-system/k3s-etcd-snapshots", partState},
	{"/registry/configmaps/kube-system/cluster-dns", partDNS},
	{"/registry/secrets/kube-system/sh.helm.release.v1.traefik.", partTraefik},
	{"/registry/secrets/kube-system/sh.helm.release.v1.traefik-crd.", partTraefik},
	{"/registry/secrets/kube-system/chart-values-traefik", partTraefik},
	{"/registry/configmaps/kube-system/chart-content-traefik", partTraefik},
}

const (
	registry    = "/registry/"
	definitions = registry + "apiextensions.k8s.io/customresourcedefinitions/"
)

// partOf names the part of K3s that an object is of, "" if it is the user's.
// o is nil for what cannot be read.
func partOf(key string, o *object) string {
	if !strings.HasPrefix(key, registry) {
		return partState // K3s' bootstrap data.
	}
	for _, b := range beginnings {
		if strings.HasPrefix(key, b.key) {
			return b.part
		}
	}
	if strings.HasPrefix(key, registry+"secrets/kube-system/") && strings.HasSuffix(key, ".node-password.k3s") {
		return partState
	}
	if o == nil {
		return ""
	}
	notes := o.meta.Annotations
	switch notes[ownerKind] {
	case "k3s.cattle.io/v1, Kind=Addon":
		if part := packaged[notes[ownerName]]; part != "" {
			return part
		}
	case "helm.cattle.io/v1, Kind=HelmChart":
		return partHelm
	}
	switch {
	case o.meta.Labels[lbLabel] != "" && o.kind == "DaemonSet", o.kind == "ServiceAccount" && o.name() == "kube-system/svclb":
		return partLB
	case notes[releaseIn] == "kube-system" && (notes[release] == "traefik" || notes[release] == "traefik-crd"):
		return partTraefik
	}
	return ""
}

// entry is what is remembered of an object while it is decided on the others.
type entry struct {
	key    string
	kind   string
	uid    types.UID
	owners []types.UID
	part   string // of K3s; "" for what stays
}

// survey looks at all objects and decides which come along.
type survey struct {
	entries []entry
	groups  map[string]int    // objects of each resource: "traefik.io/ingressroutes"
	parents map[string]string // of an IPAddress: the Service's key
	objects Objects
}

func newSurvey() *survey {
	return &survey{groups: make(map[string]int), parents: make(map[string]string)}
}

// add looks at one object.
func (s *survey) add(key string, value []byte) error {
	o, err := parse(key, value)
	switch {
	case err == errEncrypted: //nolint:errorlint // It is never wrapped.
		s.objects.Encrypted++
	case err != nil && strings.HasPrefix(key, registry) && !strings.HasPrefix(key, registry+"ranges/"):
		s.objects.Odd = append(s.objects.Odd, key)
	}
	e := entry{key: key, part: partOf(key, o)}
	if o != nil {
		e.kind, e.uid = o.kind, o.meta.UID
		for _, owner := range o.meta.OwnerReferences {
			e.owners = append(e.owners, owner.UID)
		}
	}
	s.entries = append(s.entries, e)
	if parts := strings.Split(strings.TrimPrefix(key, registry), "/"); len(parts) > 2 && strings.Contains(parts[0], ".") {
		s.groups[parts[0]+"/"+parts[1]]++
	}
	if o == nil {
		return nil
	}
	switch o.kind {
	case "IPAddress":
		var a networkingv1.IPAddress
		if o.proto && a.Unmarshal(o.body) == nil && a.Spec.ParentRef != nil {
			s.parents[key] = registry + "services/specs/" + a.Spec.ParentRef.Namespace + "/" + a.Spec.ParentRef.Name
		}
	case "IngressClass":
		s.objects.TraefikClass = s.objects.TraefikClass || o.meta.Name == "traefik" && e.part != ""
	case "PersistentVolume":
		s.volume(o)
	}
	return nil
}

// decide makes up its mind: also what belongs to something that goes, goes.
func (s *survey) decide() (drop map[string]bool) {
	gone := make(map[types.UID]string)
	drop = make(map[string]bool)
	for i := range s.entries {
		e := &s.entries[i]
		if e.part == partTraefik && strings.HasPrefix(e.key, definitions) && s.used(strings.TrimPrefix(e.key, definitions)) {
			e.part = ""
		}
		if e.part != "" {
			drop[e.key] = true
			gone[e.uid] = e.part
		}
	}
	delete(gone, "")
	for more := true; more; {
		more = false
		for i := range s.entries {
			e := &s.entries[i]
			if e.part == "" {
				e.part = s.follows(e, gone, drop)
			}
			if e.part != "" && !drop[e.key] {
				drop[e.key], more = true, true
				if e.uid != "" {
					gone[e.uid] = e.part
				}
			}
		}
	}
	s.report(drop)
	return drop
}

// follows tells why an object goes with others: they own it, or it is the
// address or the endpoints of a Service among them.
func (s *survey) follows(e *entry, gone map[types.UID]string, drop map[string]bool) string {
	part := ""
	for _, owner := range e.owners {
		if gone[owner] == "" {
			return ""
		}
		part = gone[owner]
	}
	service := s.parents[e.key]
	if rest, ok := strings.CutPrefix(e.key, registry+"services/endpoints/"); ok {
		service = registry + "services/specs/" + rest
	}
	if part == "" && drop[service] {
		part = s.partOfKey(service)
	}
	return part
}

func (s *survey) partOfKey(key string) string {
	i := slices.IndexFunc(s.entries, func(e entry) bool { return e.key == key })
	if i < 0 {
		return ""
	}
	return s.entries[i].part
}

// used reports whether there are objects of a CustomResourceDefinition, which
// is called RESOURCE.GROUP.
func (s *survey) used(definition string) bool {
	resource, group, _ := strings.Cut(definition, ".")
	return s.groups[group+"/"+resource] > 0
}

// report fills in what the user is told.
func (s *survey) report(drop map[string]bool) {
	removed := make(map[string][]string)
	for _, e := range s.entries {
		if drop[e.key] {
			removed[e.part] = append(removed[e.part], e.key)
		}
	}
	for _, part := range slices.Sorted(maps.Keys(removed)) {
		keys := removed[part]
		slices.Sort(keys)
		s.objects.Removed = append(s.objects.Removed, Removed{part, keys})
	}
	for resource := range s.groups {
		if strings.HasPrefix(resource, "traefik.io/") || strings.HasPrefix(resource, "traefik.containo.us/") {
			s.objects.Traefik = append(s.objects.Traefik, resource)
		}
	}
	slices.SortFunc(s.objects.Traefik, cmp.Compare)
}
