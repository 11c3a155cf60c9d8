package offline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/pkg/agent/offline/wire"
)

// proto is an object that can be sent.
type proto interface {
	metav1.Object
	Marshal() ([]byte, error)
}

// server is an API server of a few resources, as a transport.
type server struct {
	t *testing.T

	mu       sync.Mutex
	down     bool
	hangs    bool // instead of refusing
	starting bool // it answers, but is not ready
	version  int
	objects  map[string]map[string]proto // by resource and key
	watches  map[*watcher]bool
	asked    []string // what it has been asked
	token    authenticationv1.TokenRequestStatus
}

type watcher struct {
	resource, field string
	w               *io.PipeWriter
}

func newServer(t *testing.T) *server {
	return &server{t: t, version: 100, objects: map[string]map[string]proto{}, watches: map[*watcher]bool{}}
}

func (s *server) set(resource string, o proto) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	o.SetResourceVersion(strconv.Itoa(s.version))
	if s.objects[resource] == nil {
		s.objects[resource] = map[string]proto{}
	}
	k, kind := key(o.GetNamespace(), o.GetName()), "ADDED"
	if s.objects[resource][k] != nil {
		kind = "MODIFIED"
	}
	s.objects[resource][k] = o
	s.tell(resource, kind, o)
}

func (s *server) remove(resource, k string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	o := s.objects[resource][k]
	delete(s.objects[resource], k)
	o.SetResourceVersion(strconv.Itoa(s.version))
	s.tell(resource, "DELETED", o)
}

func (s *server) tell(resource, kind string, o proto) {
	for w := range s.watches {
		if w.resource == resource && selected(o, w.field) {
			go func() { _, _ = w.w.Write(s.event(resource, kind, o)) }()
		}
	}
}

func (s *server) event(resource, kind string, o proto) []byte {
	return wire.WrapEvent(kind, wire.Wrap("v1", rules[resource].kind, s.raw(o)))
}

func (s *server) raw(o proto) []byte {
	b, err := o.Marshal()
	if err != nil {
		s.t.Error(err)
	}
	return b
}

func selected(o proto, field string) bool {
	name, want, _ := strings.Cut(field, "=")
	p, isPod := o.(*corev1.Pod)
	switch name {
	case "metadata.name":
		return o.GetName() == want
	case "spec.nodeName":
		return isPod && p.Spec.NodeName == want
	}
	return true
}

// stop has the server gone, or hanging.
func (s *server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = true
	for w := range s.watches {
		_ = w.w.CloseWithError(syscall.ECONNRESET)
		delete(s.watches, w)
	}
}

func (s *server) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down, s.hangs = false, false
}

func (s *server) has(part string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, a := range s.asked {
		if strings.Contains(a, part) {
			n++
		}
	}
	return n
}

// RoundTrip implements http.RoundTripper.
func (s *server) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		if s.hangs {
			s.mu.Unlock()
			<-req.Context().Done()
			s.mu.Lock()
			return nil, req.Context().Err()
		}
		return nil, syscall.ECONNREFUSED
	}
	s.asked = append(s.asked, req.Method+" "+req.URL.RequestURI())
	q := &question{Request: req}
	if req.URL.Path == "/readyz" {
		resp := replyWith(q, "text/plain", []byte("ok"))
		if s.starting {
			resp.StatusCode = http.StatusServiceUnavailable
		}
		return resp, nil
	}
	var err error
	if q, err = ask(req); err != nil {
		return nil, err
	}
	switch {
	case q.isToken():
		t := &authenticationv1.TokenRequest{Status: s.token}
		return s.created(replyWith(q, wire.ContentType, wire.Wrap("authentication.k8s.io/v1", "TokenRequest", s.rawOf(t)))), nil
	case q.watch:
		return s.watch(q), nil
	case q.name == "":
		var items [][]byte
		for _, o := range s.objects[q.resource] {
			if selected(o, q.field) {
				items = append(items, s.raw(o))
			}
		}
		return replyWith(q, wire.ContentType, wire.WrapList("v1", rules[q.resource].kind+"List", strconv.Itoa(s.version), items)), nil
	}
	o := s.objects[q.resource][key(q.namespace, q.name)]
	if o == nil {
		status, _ := json.Marshal(metav1.Status{Status: "Failure", Code: 404, Reason: metav1.StatusReasonNotFound})
		resp := replyWith(q, "application/json", status)
		resp.StatusCode = http.StatusNotFound
		return resp, nil
	}
	if q.isPodStatus() {
		patched, err := patchStatus(s.raw(o), q.body)
		if err != nil {
			return nil, err
		}
		p := &corev1.Pod{}
		if err := p.Unmarshal(patched); err != nil {
			return nil, err
		}
		s.version++
		p.ResourceVersion = strconv.Itoa(s.version)
		s.objects[q.resource][key(q.namespace, q.name)] = p
		s.tell(q.resource, "MODIFIED", p)
		o = p
	}
	return replyWith(q, wire.ContentType, wire.Wrap("v1", rules[q.resource].kind, s.raw(o))), nil
}

func (s *server) rawOf(o interface{ Marshal() ([]byte, error) }) []byte {
	b, err := o.Marshal()
	if err != nil {
		s.t.Error(err)
	}
	return b
}

func (s *server) created(r *http.Response) *http.Response {
	r.StatusCode = http.StatusCreated
	return r
}

func (s *server) watch(q *question) *http.Response {
	r, w := io.Pipe()
	wa := &watcher{q.resource, q.field, w}
	s.watches[wa] = true
	var first bytes.Buffer
	since, _ := strconv.Atoi(q.URL.Query().Get("resourceVersion"))
	var names []string
	for k := range s.objects[q.resource] {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		o := s.objects[q.resource][k]
		if v, _ := strconv.Atoi(o.GetResourceVersion()); selected(o, q.field) && (q.initial || v > since) {
			first.Write(s.event(q.resource, "ADDED", o))
		}
	}
	if q.initial {
		first.Write(wire.WrapEvent("BOOKMARK", wire.Wrap("v1", rules[q.resource].kind, wire.Bookmark(strconv.Itoa(s.version)))))
	}
	go func() { _, _ = w.Write(first.Bytes()) }()
	return reply(q, wire.ContentType+";stream=watch", &watchBody{r, s, wa}, -1)
}

type watchBody struct {
	*io.PipeReader
	s *server
	w *watcher
}

func (b *watchBody) Close() error {
	b.s.mu.Lock()
	delete(b.s.watches, b.w)
	b.s.mu.Unlock()
	return b.PipeReader.Close()
}

func pod(name, node string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", UID: "uid-" + "of-pod"},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i", ImagePullPolicy: corev1.PullAlways}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if change != nil {
		change(p)
	}
	return p
}

func (s *server) String() string { return fmt.Sprint(s.asked) }
