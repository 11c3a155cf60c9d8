package pki

import (
	"crypto/tls"
	"net"
	"testing"
)

// at is a connection to an address of this host.
type at struct {
	net.Conn

	ip string
}

func (a at) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(a.ip), Port: 6443} }

func TestServingCertificateNamesTheAddressThatWasCalled(t *testing.T) {
	b := newBench(t)
	b.ensure(testFacts)
	get := b.ServingCertificate(ServingAPI)
	ask := func(ip string) *tls.Certificate {
		t.Helper()
		c, err := get(&tls.ClientHelloInfo{Conn: at{ip: ip}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	own, other, loop := ask("10.0.0.5"), ask("192.0.2.77"), ask("127.0.0.2")
	if err := own.Leaf.VerifyHostname("192.0.2.77"); err == nil {
		t.Error("the certificate on disk names everything")
	}
	for _, name := range []string{"192.0.2.77", "10.0.0.5", "kubernetes.default.svc"} {
		if err := other.Leaf.VerifyHostname(name); err != nil {
			t.Errorf("called at another address: %v", err)
		}
	}
	if other.Leaf.CheckSignatureFrom(b.read(ServerCA)) != nil || loop != own || ask("192.0.2.77") != other {
		t.Error("it is signed by somebody else, made for the loopback interface, or not kept")
	}
	f := testFacts
	f.Extra = []string{"api.example"}
	b.ensure(f)
	if err := ask("192.0.2.77").Leaf.VerifyHostname("api.example"); err != nil {
		t.Errorf("after a renewal: %v", err)
	}
	for i := range 3 * maxByAddress {
		ask(net.IPv4(192, 0, 2, byte(i)).String())
	}
	if len(b.byAddress) > maxByAddress {
		t.Errorf("%d certificates are kept", len(b.byAddress))
	}
}
