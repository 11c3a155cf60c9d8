package offline

import (
	"net/http"
	"net/url"
	"strings"
	"time"
)

// rule says how the objects of a resource are kept.
type rule struct {
	kind string
	// delay is how long a change may wait for others before it is written; a
	// power cut loses it.
	delay time.Duration
	// pin keeps objects that are read one by one, and which no list brings.
	pin bool
	// byPods is for objects that are kept for as long as a pod of this node
	// refers to them.
	byPods bool
}

const (
	soon  = time.Second
	later = 15 * time.Second
)

// rules are the resources that a node needs to start without a server. The
// key is the path up to the resource, without the namespace.
var rules = map[string]rule{
	"/api/v1/pods":                                     {kind: "Pod", delay: soon},
	"/api/v1/nodes":                                    {kind: "Node", delay: later},
	"/api/v1/services":                                 {kind: "Service", delay: later},
	"/api/v1/namespaces":                               {kind: "Namespace", delay: later},
	"/api/v1/configmaps":                               {kind: "ConfigMap", delay: soon, byPods: true},
	"/api/v1/secrets":                                  {kind: "Secret", delay: soon, byPods: true},
	"/api/v1/serviceaccounts":                          {kind: "ServiceAccount", delay: later, pin: true},
	"/api/v1/persistentvolumes":                        {kind: "PersistentVolume", delay: soon, pin: true},
	"/api/v1/persistentvolumeclaims":                   {kind: "PersistentVolumeClaim", delay: soon, pin: true},
	"/apis/discovery.k8s.io/v1/endpointslices":         {kind: "EndpointSlice", delay: later},
	"/apis/networking.k8s.io/v1/networkpolicies":       {kind: "NetworkPolicy", delay: soon},
	"/apis/networking.k8s.io/v1/servicecidrs":          {kind: "ServiceCIDR", delay: later},
	"/apis/node.k8s.io/v1/runtimeclasses":              {kind: "RuntimeClass", delay: later},
	"/apis/storage.k8s.io/v1/csidrivers":               {kind: "CSIDriver", delay: later},
	"/apis/storage.k8s.io/v1/csinodes":                 {kind: "CSINode", delay: later, pin: true},
	"/apis/storage.k8s.io/v1/volumeattachments":        {kind: "VolumeAttachment", delay: soon, pin: true},
	"/apis/storage.k8s.io/v1/storageclasses":           {kind: "StorageClass", delay: later, pin: true},
	"/apis/resource.k8s.io/v1/resourceclaims":          {kind: "ResourceClaim", delay: soon, pin: true},
	"/apis/certificates.k8s.io/v1/clustertrustbundles": {kind: "ClusterTrustBundle", delay: later},
	// Answers that are kept by their question; see remembered.
	tokens:  {delay: soon},
	reviews: {delay: later},
}

const (
	pods    = "/api/v1/pods"
	nodes   = "/api/v1/nodes"
	tokens  = "tokens"
	reviews = "reviews"
)

// request is what a request to the API is about.
type request struct {
	resource  string // the key of rules
	namespace string
	name, sub string
	meta      bool // the answer is to have objects' metadata only
	watch     bool
	initial   bool // a watch that begins with what there is
	paged     bool // the second or a later page of a list
	label     string
	field     string
}

// parse takes a request's URL apart; ok is false for paths of another form.
func parse(req *http.Request) (r request, ok bool) {
	parts := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	var prefix string
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		prefix, parts = "/api/"+parts[1]+"/", parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		prefix, parts = "/apis/"+parts[1]+"/"+parts[2]+"/", parts[3:]
	default:
		return r, false
	}
	// /namespaces/x is an object, /namespaces/x/status a part of one.
	if parts[0] == "namespaces" && len(parts) >= 3 && parts[2] != "status" && parts[2] != "finalize" {
		r.namespace, parts = parts[1], parts[2:]
	}
	r.resource = prefix + parts[0]
	if len(parts) > 1 {
		r.name = parts[1]
	}
	if len(parts) > 2 {
		r.sub = parts[2]
	}
	q := req.URL.Query()
	r.watch = isTrue(q, "watch")
	r.initial = isTrue(q, "sendInitialEvents")
	r.paged = q.Get("continue") != ""
	r.label, r.field = q.Get("labelSelector"), q.Get("fieldSelector")
	r.meta = strings.Contains(req.Header.Get("Accept"), ";as=PartialObjectMetadata")
	return r, len(parts) <= 3
}

func isTrue(q url.Values, name string) bool { return q.Get(name) == "true" || q.Get(name) == "1" }

// table is the key of the objects that answer r.
func (r request) table() string {
	if r.meta {
		return r.resource + "#metadata"
	}
	return r.resource
}

// stream is the key of the list that r asks for.
func (r request) stream() string {
	return strings.Join([]string{r.table(), r.namespace, r.label, r.field}, "|")
}

// types are the names in the envelopes of an object and of a list of them.
func (r request) types() (apiVersion, kind, list string) {
	kind = rules[r.resource].kind
	if r.meta {
		return "meta.k8s.io/v1", "PartialObjectMetadata", "PartialObjectMetadataList"
	}
	at := strings.LastIndexByte(r.resource, '/')
	apiVersion = strings.TrimPrefix(strings.TrimPrefix(r.resource[:at], "/apis/"), "/api/")
	return apiVersion, kind, kind + "List"
}

// key names an object in its table.
func key(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}
