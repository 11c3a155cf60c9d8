package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"skiff/test/hosts"
	"skiff/test/images"
)

// patience is how long a scenario waits for something that takes a few seconds
// on an idle machine; CI has two busy cores.
const patience = 90 * time.Second

// space is one namespace of a node's cluster, bound to one test.
type space struct {
	*hosts.Host
	t    *testing.T
	kube *kubernetes.Clientset
	ns   string
}

// newSpace makes a namespace and waits until pods can be made in it.
func newSpace(t *testing.T, h *hosts.Host, ns string) *space {
	t.Helper()
	s := &space{Host: h.For(t), t: t, ns: ns}
	s.kube = s.Kube()
	t.Cleanup(s.dump)
	_, err := s.kube.CoreV1().Namespaces().Create(s.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatalf("create namespace %s: %v", ns, err)
	}
	s.eventually("the default service account", func() error {
		_, err := s.kube.CoreV1().ServiceAccounts(ns).Get(s.t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return s
}

// apply applies YAML in the namespace; IMAGE stands for the test image.
func (s *space) apply(yaml string) {
	s.t.Helper()
	yaml = strings.ReplaceAll(yaml, "IMAGE", images.Tool)
	c := hosts.Command{Args: []string{"skiff", "kubectl", "-n", s.ns, "apply", "-f", "-"}, Stdin: strings.NewReader(yaml)}
	if r := s.ExecWith(c); r.Code != 0 {
		s.t.Fatalf("kubectl apply: %s\n%s", r, yaml)
	}
}

// kubectl runs kubectl in the namespace.
func (s *space) kubectl(args ...string) string {
	s.t.Helper()
	return s.Kubectl(append([]string{"-n", s.ns}, args...)...)
}

// in runs a command in a pod's first container and returns its output.
func (s *space) in(pod string, args ...string) string {
	s.t.Helper()
	return s.kubectl(append([]string{"exec", pod, "--"}, args...)...)
}

// tryIn is in for a command that may still fail.
func (s *space) tryIn(pod string, args ...string) (string, error) {
	s.t.Helper()
	r := s.Exec(append([]string{"skiff", "kubectl", "-n", s.ns, "exec", pod, "--"}, args...)...)
	if r.Code != 0 {
		return "", fmt.Errorf("%s in %s: %s", strings.Join(args, " "), pod, r)
	}
	return r.Stdout, nil
}

// eventually polls check with the scenario's patience.
func (s *space) eventually(what string, check func() error) {
	s.t.Helper()
	hosts.Eventually(s.t, patience, what, check)
}

// pods lists the namespace's pods by label selector ("" is all).
func (s *space) pods(selector string) []corev1.Pod {
	s.t.Helper()
	list, err := s.kube.CoreV1().Pods(s.ns).List(s.t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		s.t.Fatalf("list pods: %v", err)
	}
	return list.Items
}

// pod reads one pod.
func (s *space) pod(name string) *corev1.Pod {
	s.t.Helper()
	p, err := s.kube.CoreV1().Pods(s.ns).Get(s.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatalf("get pod %s: %v", name, err)
	}
	return p
}

// ready waits until count pods of the selector are ready and no other is left,
// and returns them.
func (s *space) ready(selector string, count int) []corev1.Pod {
	s.t.Helper()
	var found []corev1.Pod
	s.eventually(fmt.Sprintf("%d ready pods of %q", count, selector), func() error {
		list, err := s.kube.CoreV1().Pods(s.ns).List(s.t.Context(), metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return err
		}
		found = list.Items
		if len(found) != count {
			return fmt.Errorf("there are %d", len(found))
		}
		for _, p := range found {
			if !isReady(&p) {
				return fmt.Errorf("%s", describe(&p))
			}
		}
		return nil
	})
	return found
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// describe says in one line where a pod stands.
func describe(p *corev1.Pod) string {
	var b strings.Builder
	fmt.Fprintf(&b, "pod %s is %s %s", p.Name, p.Status.Phase, p.Status.Message)
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			fmt.Fprintf(&b, "; %s waits: %s %s", c.Name, w.Reason, w.Message)
		}
		if e := c.State.Terminated; e != nil {
			fmt.Fprintf(&b, "; %s ended: %s %d %s", c.Name, e.Reason, e.ExitCode, e.Message)
		}
	}
	return b.String()
}

// containerIDs maps "pod/container" to the running container's id and restarts.
func (s *space) containerIDs() map[string]string {
	s.t.Helper()
	ids := map[string]string{}
	for _, p := range s.pods("") {
		for _, c := range p.Status.ContainerStatuses {
			ids[p.Name+"/"+c.Name] = fmt.Sprintf("%s restarts=%d", c.ContainerID, c.RestartCount)
		}
	}
	return ids
}

// client runs a pod that does nothing, to run commands in.
func (s *space) client(name string) {
	s.t.Helper()
	s.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "IMAGE", imagePullPolicy: Never, command: [sleep, "86400"]}]
`, name, name))
	s.ready("app="+name, 1)
}

// contains fails the test when a part is missing in got.
func contains(t *testing.T, what, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("%s: %q is missing in\n%s", what, part, got)
		}
	}
}
