package offline

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// unusedFor is how long a list that nobody watches is kept.
const unusedFor = time.Hour

// refs are the objects that this node's pods need.
type refs struct {
	uids  map[string]bool
	names map[string]map[string]bool // by resource
}

func (r refs) add(resource, namespace, name string) {
	if name == "" {
		return
	}
	if r.names[resource] == nil {
		r.names[resource] = map[string]bool{}
	}
	r.names[resource][key(namespace, name)] = true
}

const (
	configMaps = "/api/v1/configmaps"
	secrets    = "/api/v1/secrets" //nolint:gosec // A path.
	accounts   = "/api/v1/serviceaccounts"
	claims     = "/api/v1/persistentvolumeclaims"
	volumes    = "/api/v1/persistentvolumes"
	attached   = "/apis/storage.k8s.io/v1/volumeattachments"
)

// collect drops what no pod of this node needs any more, first of all Secrets.
// The caller holds mu, and a server is in reach.
func (c *Cache) collect() {
	own := c.state.streams[c.ownPods()]
	if own == nil || !own.listed || own.served {
		return // The pods are not known for certain.
	}
	needed, ok := c.references(own)
	if !ok {
		return
	}
	now := c.now()
	for name, st := range c.state.streams {
		if st.watched > 0 || now.Sub(st.used) < unusedFor || name == c.ownPods() {
			continue
		}
		if rules[resourceOf(st.table)].byPods && needsAny(needed.names[resourceOf(st.table)], st) {
			continue
		}
		c.state.forget(now, name)
	}
	for k := range c.state.tables[tokens] {
		uid, _, _ := strings.Cut(k, "|")
		if uid != "" && !needed.uids[uid] {
			c.state.drop(now, tokens, k)
		}
	}
	for _, resource := range []string{accounts, claims, volumes, attached} {
		for k, o := range c.state.tables[resource] {
			if o.streams == 0 && !needed.names[resource][k] {
				c.state.drop(now, resource, k)
			}
		}
	}
}

// needsAny reports whether pods need one of a stream's objects. One that is
// empty waits for an object that a pod may need.
func needsAny(names map[string]bool, st *stream) bool {
	for k := range st.members {
		if names[k] {
			return true
		}
	}
	return false
}

// references reads this node's pods; ok is false if that is not possible.
func (c *Cache) references(own *stream) (r refs, ok bool) {
	r = refs{uids: map[string]bool{}, names: map[string]map[string]bool{}}
	for k := range own.members {
		o := c.state.object(pods, k)
		if o == nil {
			return r, false
		}
		body, err := c.body(o)
		var p corev1.Pod
		if err != nil || p.Unmarshal(body) != nil {
			return r, false
		}
		r.pod(&p)
	}
	for k, o := range c.state.tables[claims] {
		var claim corev1.PersistentVolumeClaim
		if body, err := c.body(o); err == nil && r.names[claims][k] && claim.Unmarshal(body) == nil {
			r.add(volumes, "", claim.Spec.VolumeName)
		}
	}
	for k, o := range c.state.tables[attached] {
		var a storagev1.VolumeAttachment
		body, err := c.body(o)
		if err != nil || a.Unmarshal(body) != nil || a.Spec.Source.PersistentVolumeName == nil {
			continue
		}
		if r.names[volumes][*a.Spec.Source.PersistentVolumeName] {
			r.add(attached, "", k)
		}
	}
	return r, true
}

func (r refs) pod(p *corev1.Pod) {
	r.uids[string(p.UID)] = true
	podutil.VisitPodSecretNames(p, func(name string) bool { r.add(secrets, p.Namespace, name); return true })
	podutil.VisitPodConfigmapNames(p, func(name string) bool { r.add(configMaps, p.Namespace, name); return true })
	r.add(accounts, p.Namespace, p.Spec.ServiceAccountName)
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			r.add(claims, p.Namespace, v.PersistentVolumeClaim.ClaimName)
		}
		if v.Ephemeral != nil {
			r.add(claims, p.Namespace, p.Name+"-"+v.Name)
		}
	}
}
