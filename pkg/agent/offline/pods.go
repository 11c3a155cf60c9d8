package offline

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/scheme"

	"skiff/pkg/agent/offline/wire"
)

// ownPods is the stream of this node's pods: the kubelet's.
func (c *Cache) ownPods() string {
	return request{resource: pods, field: "spec.nodeName=" + c.o.NodeName}.stream()
}

// startable changes a pod so that it can start without a network: an image
// that is always to be pulled could not be, and is here.
func startable(body []byte) []byte {
	var p corev1.Pod
	if p.Unmarshal(body) != nil {
		return body
	}
	changed := false
	for _, containers := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range containers {
			if containers[i].ImagePullPolicy == corev1.PullAlways {
				containers[i].ImagePullPolicy = corev1.PullIfNotPresent
				changed = true
			}
		}
	}
	if !changed {
		return body
	}
	out, err := p.Marshal()
	if err != nil {
		return body
	}
	return out
}

// keepStatus notes what the kubelet says of a pod although no server hears it:
// after a restart the kubelet must know what has ended. It is told that nobody
// has heard, and will say it again.
func (c *Cache) keepStatus(q *question) {
	if q.Header.Get("Content-Type") != string(types.StrategicMergePatchType) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k := key(q.namespace, q.name)
	o := c.state.object(pods, k)
	if o == nil {
		return
	}
	body, err := c.body(o)
	if err != nil {
		return
	}
	patched, err := patchStatus(body, q.body)
	if err != nil {
		c.o.Logger.Debug("the state of a pod cannot be kept", "pod", k, "error", err)
		return
	}
	if bytes.Equal(patched, body) {
		return
	}
	c.state.store(c.now(), pods, k, o.version, patched, false, true)
	c.wake()
}

// patchStatus applies a patch to the status of a pod, and to nothing else.
func patchStatus(body, patch []byte) ([]byte, error) {
	var p, changed corev1.Pod
	if err := p.Unmarshal(body); err != nil {
		return nil, err
	}
	before, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	after, err := strategicpatch.StrategicMergePatch(before, patch, corev1.Pod{})
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(after, &changed); err != nil {
		return nil, err
	}
	p.Status = changed.Status
	return p.Marshal()
}

// recollection is where the answer to a question is remembered.
func (q *question) recollection() (table, k string, ok bool) {
	if q.isReview() {
		sum := sha256.Sum256(q.body)
		return reviews, hex.EncodeToString(sum[:]), true
	}
	t, err := tokenRequest(q.body)
	if err != nil {
		return "", "", false
	}
	uid := ""
	if ref := t.Spec.BoundObjectRef; ref != nil {
		uid = string(ref.UID)
	}
	seconds := int64(0)
	if t.Spec.ExpirationSeconds != nil {
		seconds = *t.Spec.ExpirationSeconds
	}
	return tokens, strings.Join([]string{uid, q.namespace, q.name, strings.Join(t.Spec.Audiences, ","), strconv.FormatInt(seconds, 10)}, "|"), true
}

func tokenRequest(body []byte) (*authenticationv1.TokenRequest, error) {
	t := &authenticationv1.TokenRequest{}
	_, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, t)
	return t, err
}

// lent is for how long the kubelet may take a token that has expired. It asks
// again well before, each time it looks after the pod.
const lent = 10 * time.Minute

// recallToken gives the last token that was issued for a pod. One that has
// expired, too: it grants nothing to whoever looks at the date in it, but
// without a token the pod would not start.
func (c *Cache) recallToken(q *question) (*http.Response, error) {
	resp, err := c.recall(q)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	t, err := tokenRequest(body)
	if err != nil {
		return nil, err
	}
	if until := c.now().Add(lent); t.Status.ExpirationTimestamp.Time.Before(until) {
		t.Status.ExpirationTimestamp = metav1.NewTime(until)
	}
	raw, err := t.Marshal()
	if err != nil {
		return nil, err
	}
	gv := authenticationv1.SchemeGroupVersion.String()
	again := replyWith(q, wire.ContentType, wire.Wrap(gv, "TokenRequest", raw))
	again.StatusCode, again.Status = resp.StatusCode, resp.Status
	return again, nil
}
