package ingress

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/agent/ingress/edge"
	"skiff/pkg/agent/ingress/rules"
)

func certificateOf(name string) *tls.Certificate {
	return &tls.Certificate{Leaf: &x509.Certificate{Subject: pkix.Name{CommonName: name}}}
}

func TestJoin(t *testing.T) {
	hosts := []edge.VirtualHost{{Hosts: []string{"a.example.com"}}, {Hosts: []string{"b.test"}}, {}}
	ingress := rules.Result{Listeners: []edge.Listener{
		{Name: "ingress/http", Port: 80, Hosts: hosts},
		{Name: "ingress/https", Port: 443, Protocol: edge.HTTPS, Hosts: hosts, Certificates: []*tls.Certificate{certificateOf("shop")}},
	}}
	tests := []struct {
		name     string
		gateways []edge.Listener
		want     map[string][]string // certificates by listener@hostname
	}{
		{"alone", nil, map[string][]string{"ingress/http@": nil, "ingress/https@": {"default", "shop"}}},
		{
			"another port",
			[]edge.Listener{{Name: "g", Port: 8000, Hostname: "a.example.com"}},
			map[string][]string{"g@a.example.com": nil, "ingress/http@": nil, "ingress/https@": {"default", "shop"}},
		},
		{
			"a wildcard hides one host",
			[]edge.Listener{{Name: "g", Port: 80, Hostname: "*.example.com"}},
			map[string][]string{"g@*.example.com": nil, "ingress/http@": nil, "ingress/http/a.example.com@a.example.com": nil, "ingress/https@": {"default", "shop"}},
		},
		{
			"certificates of one socket are shared",
			[]edge.Listener{{Name: "g", Port: 443, Protocol: edge.HTTPS, Certificates: []*tls.Certificate{certificateOf("gate")}}},
			map[string][]string{"g@": {"gate", "default", "shop"}, "ingress/http@": nil, "ingress/https@": {"gate", "default", "shop"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := make(map[string][]string)
			for _, l := range join(tt.gateways, ingress, certificateOf("default")) {
				var names []string
				for _, c := range l.Certificates {
					names = append(names, c.Leaf.Subject.CommonName)
				}
				got[l.Name+"@"+l.Hostname] = names
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("listeners (-want +got):\n%s", diff)
			}
		})
	}
}
