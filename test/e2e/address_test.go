package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/test/hosts"
)

// lastReserved is where host-local keeps the address it has given out last.
const lastReserved = "/run/skiff/cni/networks/cbr0/last_reserved_ip.0"

// usedAddress gives a pod the address of one that the host has just talked to:
// it has to answer at once, not when the host has forgotten the other.
func usedAddress(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "address")
	serve := func(name string) string {
		s.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve]}]
`, name, name))
		return s.ready("app="+name, 1)[0].Status.PodIP
	}
	s.client("other") // with the last pod the bridge goes down and forgets all
	first := serve("first")
	s.eventually("an answer of the first pod", func() error { return answersOK(h, "http://"+first+":8080/") })
	s.kubectl("delete", "pod", "first", "--now")
	s.eventually("the end of the first pod", func() error {
		_, err := s.kube.CoreV1().Pods(s.ns).Get(t.Context(), "first", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it is still there"))
	})

	addr, err := netip.ParseAddr(first)
	if err != nil {
		t.Fatal(err)
	}
	h.Run("sh", "-c", "printf %s "+addr.Prev().String()+" > "+lastReserved)
	second := serve("second")
	if second != first {
		t.Fatalf("the second pod has %s, want the first one's %s", second, first)
	}
	// The tool listens a moment after the container has started; a host that
	// sends to the wrong place gets no answer at all, not even a refusal.
	s.eventually("an answer of the second pod", func() error {
		err := answersOK(h, "http://"+second+":8080/")
		var timeout interface{ Timeout() bool }
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Fatalf("the second pod cannot be reached at an address that was used before: %v", err)
		}
		return err
	})
}
