package rules

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/pkg/agent/ingress/catalog"
	"skiff/pkg/agent/ingress/edge"
)

// ingress makes an Ingress of class skiff in namespace shop; age tells which is
// older.
func ingress(name string, age int, change func(*networkingv1.Ingress)) *networkingv1.Ingress {
	i := &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "shop", Annotations: map[string]string{},
			CreationTimestamp: metav1.NewTime(time.Date(2026, 1, 1, 0, 0, -age, 0, time.UTC)),
		},
		Spec: networkingv1.IngressSpec{IngressClassName: new(ClassName)},
	}
	change(i)
	return i
}

func rule(host string, paths ...networkingv1.HTTPIngressPath) func(*networkingv1.Ingress) {
	return func(i *networkingv1.Ingress) {
		i.Spec.Rules = append(i.Spec.Rules, networkingv1.IngressRule{
			Host: host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: paths}},
		})
	}
}

func path(kind networkingv1.PathType, p, service string) networkingv1.HTTPIngressPath {
	return networkingv1.HTTPIngressPath{Path: p, PathType: &kind, Backend: backend(service)}
}

func backend(service string) networkingv1.IngressBackend {
	return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: service, Port: networkingv1.ServiceBackendPort{Number: 80}}}
}

func inputs(ingresses ...*networkingv1.Ingress) Inputs {
	return Inputs{
		Ingresses: ingresses,
		Classes: []*networkingv1.IngressClass{{
			ObjectMeta: metav1.ObjectMeta{Name: ClassName, Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}},
			Spec:       networkingv1.IngressClassSpec{Controller: Controller},
		}},
		Lookup: catalog.Lookup{
			Service: func(namespace, name string) *corev1.Service {
				if name == "missing" {
					return nil
				}
				return &corev1.Service{
					ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
					Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
				}
			},
			Secret: func(namespace, name string) *corev1.Secret {
				if name != "users" {
					return nil
				}
				return &corev1.Secret{Data: map[string][]byte{"auth": []byte("# staff\nanna:$2y$05$abc\n")}}
			},
		},
		Certificates: &catalog.Certificates{},
	}
}

const (
	prefix = networkingv1.PathTypePrefix
	exact  = networkingv1.PathTypeExact
	own    = networkingv1.PathTypeImplementationSpecific
)

// summary says what goes where: host, kind of match, path and backend.
func summary(r Result) []string {
	var out []string
	if len(r.Listeners) == 0 {
		return nil
	}
	kinds := map[edge.PathKind]string{edge.PathPrefix: "prefix", edge.PathExact: "exact", edge.PathRegexp: "regexp"}
	for _, h := range r.Listeners[0].Hosts {
		for _, route := range h.Routes {
			key := ""
			if len(route.Backends) > 0 {
				key = route.Backends[0].Backend
			}
			out = append(out, strings.Join([]string{strings.Join(h.Hosts, ","), kinds[route.Matches[0].Path.Kind], route.Matches[0].Path.Value, key}, " "))
		}
	}
	if d := r.Listeners[0].Default; d != nil {
		out = append(out, "default "+d.Backends[0].Backend)
	}
	return out
}

func TestRoutes(t *testing.T) {
	tests := []struct {
		name      string
		ingresses []*networkingv1.Ingress
		want      []string
		problems  map[string]string // name of the Ingress → reason
	}{
		{
			"types of paths",
			[]*networkingv1.Ingress{
				ingress("a", 0, rule("A.example.com", path(prefix, "/p", "x"), path(exact, "/e", "y"), path(own, "/o", "z"))),
			},
			[]string{"a.example.com prefix /p shop/x:80", "a.example.com exact /e shop/y:80", "a.example.com prefix /o shop/z:80"},
			nil,
		},
		{
			"the older one keeps a path",
			[]*networkingv1.Ingress{
				ingress("young", 1, rule("a", path(prefix, "/p/", "young"))), ingress("old", 9, rule("a", path(prefix, "/p", "old"))),
			},
			[]string{"a prefix /p shop/old:80"},
			map[string]string{"young": "Conflict"},
		},
		{
			"default backends",
			[]*networkingv1.Ingress{
				ingress("all", 3, func(i *networkingv1.Ingress) { i.Spec.DefaultBackend = new(backend("all")) }),
				ingress("late", 2, func(i *networkingv1.Ingress) { i.Spec.DefaultBackend = new(backend("late")) }),
				ingress("host", 1, func(i *networkingv1.Ingress) {
					rule("a", path(exact, "/e", "x"))(i)
					i.Spec.DefaultBackend = new(backend("rest"))
				}),
			},
			[]string{"a exact /e shop/x:80", "a prefix  shop/rest:80", "default shop/all:80"},
			map[string]string{"late": "Conflict"},
		},
		{
			"what is missing answers for itself",
			[]*networkingv1.Ingress{
				ingress("a", 0, rule("", path(prefix, "/", "missing"))),
				ingress("b", 0, rule("b", networkingv1.HTTPIngressPath{Path: "/", PathType: new(prefix), Backend: networkingv1.IngressBackend{
					Service: &networkingv1.IngressServiceBackend{Name: "x", Port: networkingv1.ServiceBackendPort{Name: "grpc"}},
				}})),
			},
			[]string{" prefix / ", "b prefix / "},
			map[string]string{"a": "ServiceNotFound", "b": "PortNotFound"},
		},
		{
			"others' classes",
			[]*networkingv1.Ingress{
				ingress("a", 0, func(i *networkingv1.Ingress) {
					rule("a", path(prefix, "/", "x"))(i)
					i.Spec.IngressClassName = new("nginx")
				}),
				ingress("b", 0, func(i *networkingv1.Ingress) { rule("b", path(prefix, "/", "x"))(i); i.Spec.IngressClassName = nil }),
				ingress("c", 0, func(i *networkingv1.Ingress) {
					rule("c", path(prefix, "/", "x"))(i)
					i.Spec.IngressClassName, i.Annotations["kubernetes.io/ingress.class"] = nil, "traefik"
				}),
			},
			[]string{"b prefix / shop/x:80"},
			nil,
		},
		{
			"expressions",
			[]*networkingv1.Ingress{
				ingress("a", 0, func(i *networkingv1.Ingress) {
					rule("a", path(own, "/api(/|$)(.*)", "x"), path(prefix, "/plain", "y"))(i)
					i.Annotations[nginxPrefix+"rewrite-target"] = "/$2"
				}),
			},
			[]string{"a regexp /api(/|$)(.*).* shop/x:80", "a prefix /plain shop/y:80"},
			nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Translate(inputs(tt.ingresses...))
			if diff := cmp.Diff(tt.want, summary(r)); diff != "" {
				t.Errorf("routes (-want +got):\n%s", diff)
			}
			got := make(map[string]string)
			for key, problems := range r.Problems {
				got[key.Name] = problems[0].Reason
			}
			if tt.problems == nil {
				tt.problems = map[string]string{}
			}
			if diff := cmp.Diff(tt.problems, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAnnotations reads annotations from the one route of an Ingress.
func TestAnnotations(t *testing.T) {
	tests := []struct {
		name        string
		annotations map[string]string
		want        func(*edge.Route)
		problem     string
	}{
		{"https only", map[string]string{Prefix + "ssl-redirect": "true"}, func(r *edge.Route) { r.Policy.HTTPSOnly = true }, ""},
		{"our own wins", map[string]string{nginxPrefix + "proxy-body-size": "1m", Prefix + "proxy-body-size": "8m"}, func(r *edge.Route) { r.Policy.MaxBody = 8 << 20 }, ""},
		{"timeouts", map[string]string{nginxPrefix + "proxy-read-timeout": "120", nginxPrefix + "proxy-send-timeout": "60"}, func(r *edge.Route) { r.Timeouts.Idle = 2 * time.Minute }, ""},
		{"allow", map[string]string{nginxPrefix + "whitelist-source-range": "10.0.0.1/8, 192.168.1.1"}, func(r *edge.Route) {
			r.Policy.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.168.1.1/32")}
		}, ""},
		{"a broken allow lets nobody in", map[string]string{Prefix + "allowlist-source-range": "office"}, func(r *edge.Route) { r.Policy.Deny = everybody() }, "nobody is let in"},
		{"password", map[string]string{Prefix + "auth-type": "basic", Prefix + "auth-secret": "users"}, func(r *edge.Route) {
			r.Policy.BasicAuth = &edge.BasicAuth{Realm: "Authentication required", Users: map[string]string{"anna": "$2y$05$abc"}}
		}, ""},
		{"password without users", map[string]string{Prefix + "auth-type": "basic", Prefix + "auth-secret": "nobody"}, func(r *edge.Route) { r.Policy.Deny = everybody() }, "does not exist"},
		{"another namespace's users", map[string]string{Prefix + "auth-secret": "kube-system/users"}, func(r *edge.Route) { r.Policy.Deny = everybody() }, "another namespace"},
		{"rate", map[string]string{Prefix + "limit-rpm": "120"}, func(r *edge.Route) { r.Policy.Rate = &edge.Rate{PerSecond: 2, Burst: 10} }, ""},
		{"cookie", map[string]string{Prefix + "affinity": "cookie", Prefix + "session-cookie-max-age": "60"}, func(r *edge.Route) {
			r.Session = &edge.Session{MaxAge: time.Minute}
		}, ""},
		{"elsewhere", map[string]string{nginxPrefix + "permanent-redirect": "https://example.org/"}, func(r *edge.Route) {
			r.Filters = []edge.Filter{{Redirect: &edge.Redirect{Location: "https://example.org/", Status: 301}}}
		}, ""},
		{"headers", map[string]string{Prefix + "response-headers": "X-Frame-Options: DENY\n-Server\n"}, func(r *edge.Route) {
			r.Filters = []edge.Filter{{ResponseHeaders: &edge.HeaderEdit{Set: []edge.Header{{Name: "X-Frame-Options", Value: "DENY"}}, Remove: []string{"Server"}}}}
		}, ""},
		{"unknown", map[string]string{nginxPrefix + "ssl-redirct": "true"}, func(*edge.Route) {}, "not known"},
		{"no nginx here", map[string]string{nginxPrefix + "server-snippet": "deny all;"}, func(*edge.Route) {}, "no nginx"},
		{"somebody else's", map[string]string{"example.com/ssl-redirect": "true"}, func(*edge.Route) {}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Translate(inputs(ingress("a", 0, func(i *networkingv1.Ingress) {
				rule("a", path(prefix, "/", "x"))(i)
				i.Annotations = tt.annotations
			})))
			want := edge.Route{
				Name: "shop/a", Matches: []edge.Match{{Path: edge.PathMatch{Value: "/"}}},
				Backends: []edge.WeightedBackend{{Backend: "shop/x:80", Weight: 1, Status: 503}},
			}
			tt.want(&want)
			if diff := cmp.Diff(want, r.Listeners[0].Hosts[0].Routes[0], cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("route (-want +got):\n%s", diff)
			}
			var said string
			for _, p := range r.Problems[types.NamespacedName{Namespace: "shop", Name: "a"}] {
				said += p.Message
			}
			if tt.problem == "" && said != "" || !strings.Contains(said, tt.problem) {
				t.Errorf("problem is %q, want %q", said, tt.problem)
			}
		})
	}
}
