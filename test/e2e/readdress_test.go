package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"skiff/test/hosts"
)

// TestReaddress gives a server other addresses while pods work: as DHCP does,
// as a cable does that is out for a while, and between two starts. No pod is
// started again, and everything that names the address names the new one.
func TestReaddress(t *testing.T) {
	t.Parallel()
	network := hosts.NewNetwork(t)
	h := newHost(t, hosts.Named("nomad"), hosts.On(network))
	h.StartServer()
	h.WaitReady()
	s := newSpace(t, h, "nomad")
	s.apply(keptApp)
	s.apply(balancedKept)
	s.client("client")
	s.ready("app=kept", 2)
	followed(s)
	before, pid := s.containerIDs(), h.Skiff().PID()
	swaps := 3
	if os.Getenv("SKIFF_SOAK") != "" {
		swaps = 20
	}

	load := newLoad(s)
	for range swaps {
		h.Readdress()
		begin := time.Now()
		followed(s)
		t.Logf("%s is everywhere after %s", h.Addr(), time.Since(begin).Round(10*time.Millisecond))
	}
	if failed := load.stop(); failed > 0 {
		t.Errorf("%d of %d requests inside the node failed while its address changed", failed, load.total)
	}
	s.sameContainers("changes of address", before)

	old := h.Addr()
	h.Run("ip", "link", "set", "eth0", "down")
	<-time.After(3 * time.Second) // longer than skiff waits for a change to settle
	if got := internalIP(s); got != old {
		t.Errorf("without its cable the node has the address %s, want %s as before", got, old)
	}
	apiReachable(s, "client")
	h.Run("ip", "link", "set", "eth0", "up")
	h.Run("ip", "route", "replace", "default", "via", h.Network().Gateway())
	followed(s)
	s.sameContainers("a while without the cable", before)
	if h.Skiff().PID() != pid {
		t.Error("skiff was started again")
	}

	h.Kill9()
	h.Readdress()
	h.Start()
	h.WaitReady()
	followed(s)
	s.sameContainers("a change between two starts", before)
	if t.Failed() {
		return
	}

	agent := newHost(t, hosts.Named("drifter"), hosts.On(network))
	agent.StartAgent(h)
	agent.WaitReady()
	s.apply(fmt.Sprintf(onNode, agent.Name(), agent.Name()))
	s.ready("app=fly", 1)
	t.Run("of an agent", func(t *testing.T) { agentMoves(t, s, agent.For(t)) })
}

// agentMoves gives a node alone another address, twice.
func agentMoves(t *testing.T, s *space, agent *hosts.Host) {
	one := &space{Host: s.Host, t: t, kube: s.kube, ns: s.ns}
	before, pod := one.containerIDs(), one.pod("on-"+agent.Name()).Status.PodIP
	for range 2 {
		agent.Readdress()
		addr, begin := agent.Addr(), time.Now()
		there := &space{Host: agent, t: t, kube: s.kube, ns: s.ns}
		one.eventually("the Node to have "+addr, func() error { return is(internalIPOf(one, agent.Name()), addr) })
		one.eventually("the kubelet's certificate to name "+addr, func() error { return kubeletVerifies(there) })
		one.eventually("the pod from the other node", func() error {
			// TCP asks after 1, 3, 7 s: one attempt would outlast what it is to measure.
			_, err := one.tryIn("client", "timeout", "2", "/tool", "get", "http://"+pod+":8080/")
			return err
		})
		one.eventually("exec into the pod", func() error {
			_, err := one.tryIn("on-"+agent.Name(), "hostname")
			return err
		})
		one.eventually("the NodePort at "+addr, func() error { return answersOK(s.Network(), "http://"+addr+":30090/") })
		took := time.Since(begin).Round(10 * time.Millisecond)
		t.Logf("%s is everywhere after %s", addr, took)
		if took > recovery {
			t.Errorf("it took %s until all had followed, want %s at most", took, recovery)
		}
	}
	one.sameContainers("the agent's changes of address", before)
}

const balancedKept = `
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec:
  type: LoadBalancer
  selector: {app: kept}
  ports: [{port: 8090, targetPort: 8080}]
`

// followed waits until everything knows the host's present address.
func followed(s *space) {
	s.t.Helper()
	addr := s.Addr()
	s.eventually("a certificate for "+addr, func() error { return apiVerifies(s) })
	s.eventually("the Node to have "+addr, func() error { return is(internalIP(s), addr) })
	s.eventually("Service kubernetes to lead to "+addr, func() error {
		e, err := s.kube.DiscoveryV1().EndpointSlices("default").Get(s.t.Context(), "kubernetes", metav1.GetOptions{})
		if err != nil {
			return err
		}
		return is(fmt.Sprint(e.Endpoints[0].Addresses), "["+addr+"]")
	})
	s.eventually("flannel to announce "+addr, func() error {
		n, err := s.kube.CoreV1().Nodes().Get(s.t.Context(), s.Name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		return is(n.Annotations["flannel.alpha.coreos.com/public-ip"], addr)
	})
	s.eventually("the kubelet's certificate to name "+addr, func() error { return kubeletVerifies(s) })
	s.eventually("the NodePort at "+addr, func() error { return answersOK(s.Network(), "http://"+addr+":30090/") })
	s.eventually("the load balancer at "+addr, func() error { return answersOK(s.Network(), "http://"+addr+":8090/") })
	s.eventually("the API from a pod", func() error {
		_, err := s.tryIn("client", "/tool", "get", "https://10.43.0.1:443/version")
		return err
	})
	s.eventually("a Service from the host", func() error {
		svc, err := s.kube.CoreV1().Services(s.ns).Get(s.t.Context(), "kept", metav1.GetOptions{})
		if err != nil {
			return err
		}
		return answersOK(s, "http://"+svc.Spec.ClusterIP+"/")
	})
}

func internalIP(s *space) string {
	s.t.Helper()
	return internalIPOf(s, s.Name())
}

func internalIPOf(s *space, node string) string {
	s.t.Helper()
	return s.Kubectl("get", "node", node, "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
}

// apiVerifies asks the API from another machine, by the host's address, with
// the administrator's credentials and full verification.
func apiVerifies(s *space) error {
	c := s.RESTConfig()
	c.Dial, c.Host, c.Timeout = s.Network().DialContext, "https://"+net.JoinHostPort(s.Addr(), "6443"), 5*time.Second
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		return err
	}
	_, err = client.Discovery().ServerVersion()
	return err
}

// kubeletVerifies looks at the certificate the kubelet serves.
func kubeletVerifies(s *space) error {
	ca, _ := pem.Decode([]byte(s.ReadFile("/var/lib/skiff/agent/tls/server-ca.crt")))
	if ca == nil {
		return errors.New("no authority on the node")
	}
	root, err := x509.ParseCertificate(ca.Bytes)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	conn, err := s.Network().DialContext(s.t.Context(), "tcp", net.JoinHostPort(s.Addr(), "10250"))
	if err != nil {
		return err
	}
	defer conn.Close()
	tc := tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: s.Addr(), MinVersion: tls.VersionTLS12})
	return tc.HandshakeContext(s.t.Context())
}

// load is requests that never leave the node, one after the other.
type load struct {
	cancel        context.CancelFunc
	done          sync.WaitGroup
	total, failed int
}

// newLoad has the host ask a Service by its cluster address, which does not
// depend on the node's: that its address changes must not be felt there.
func newLoad(s *space) *load {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	l := &load{cancel: cancel}
	pod := s.pods("app=kept")[0].Status.PodIP
	client := hosts.HTTPClient(s)
	l.done.Go(func() {
		for ctx.Err() == nil {
			l.total++
			resp, err := client.Get("http://" + pod + ":8080/")
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				err = errors.Join(err, resp.Body.Close())
			}
			if err != nil && !strings.Contains(err.Error(), "context canceled") {
				l.failed++
				s.t.Logf("request %d: %v", l.total, err)
			}
			<-time.After(20 * time.Millisecond)
		}
	})
	return l
}

func (l *load) stop() (failed int) {
	l.cancel()
	l.done.Wait()
	return l.failed
}
