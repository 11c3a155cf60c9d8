package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/test/hosts"
)

// restarts stops skiff in both ways and checks that pods never notice.
func restarts(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "kept")
	s.apply(keptApp)
	s.ready("app=kept", 2)
	url := "http://" + h.Addr() + ":30090/"
	s.eventually("the NodePort", func() error { return answersOK(h.Network(), url) })
	before := s.containerIDs()

	s.Stop()
	if err := answersOK(h.Network(), url); err != nil {
		t.Errorf("the Service while skiff is stopped: %v", err)
	}
	s.Start()
	s.WaitReady()
	s.sameContainers("a restart", before)

	s.Kill9()
	if err := answersOK(h.Network(), url); err != nil {
		t.Errorf("the Service after kill -9: %v", err)
	}
	s.Start()
	s.WaitReady()
	s.sameContainers("kill -9", before)
	pod := s.pods("app=kept")[0].Name
	s.eventually("exec into a pod that was kept", func() error {
		// The kubelet is ready a moment before it has heard of its pods again.
		out, err := s.tryIn(pod, "hostname")
		if err == nil && strings.TrimSpace(out) != pod {
			err = fmt.Errorf("got %s", out)
		}
		return err
	})
	contains(t, "logs of a pod that was kept", s.kubectl("logs", pod), "listening on")

	s.killContainerd()
	s.sameContainers("an end of containerd", before)
	s.Run("ip", "link", "delete", "cni0")
	s.eventually("the NodePort without the bridge", func() error { return answersOK(h.Network(), url) })
	s.WaitReady()
	s.sameContainers("the end of the bridge", before)
	s.kubectl("scale", "deployment/kept", "--replicas=3")
	s.ready("app=kept", 3)
}

// killContainerd ends containerd as a lack of memory would, and waits until
// skiff has another that is ready.
func (s *space) killContainerd() {
	s.t.Helper()
	for _, p := range s.Processes() {
		if p.Args[0] == "containerd" {
			noError(s.t, syscall.Kill(p.PID, syscall.SIGKILL))
		}
	}
	s.eventually("containerd to be ready again", func() error {
		var report struct {
			Components []struct {
				Name, State, Message string
				Restarts             int
			}
		}
		if err := json.Unmarshal([]byte(s.Status("-o", "json").Stdout), &report); err != nil {
			return err
		}
		for _, c := range report.Components {
			if c.Name == "containerd" && (c.Restarts != 1 || c.State != "ready") {
				return fmt.Errorf("%s after %d restarts: %s", c.State, c.Restarts, c.Message)
			}
		}
		return nil
	})
}

const keptApp = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: kept}
spec:
  replicas: 2
  selector: {matchLabels: {app: kept}}
  template:
    metadata: {labels: {app: kept}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: IMAGE
        imagePullPolicy: Never
        command: [/tool, serve]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: kept}
spec:
  type: NodePort
  selector: {app: kept}
  ports: [{port: 80, targetPort: 8080, nodePort: 30090}]
`

// sameContainers checks that all pods run in the containers of before, now and
// after the node has had time to change its mind.
func (s *space) sameContainers(after string, before map[string]string) {
	s.t.Helper()
	check := func() error {
		if diff := cmp.Diff(before, s.containerIDs()); diff != "" {
			return fmt.Errorf("containers changed after %s (-before +after):\n%s", after, diff)
		}
		return nil
	}
	s.eventually("the pods to be ready after "+after, func() error {
		for _, p := range s.pods("") {
			if !isReady(&p) {
				return fmt.Errorf("%s", describe(&p))
			}
		}
		return nil
	})
	if err := check(); err != nil {
		s.t.Error(err)
	}
}

// powerCut ends everything at once; at the next start all is back by itself.
func powerCut(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "dark")
	s.apply(strings.ReplaceAll(strings.ReplaceAll(keptApp, "30090", "30091"), "kept", "dark"))
	s.ready("app=dark", 2)
	before := s.containerIDs()
	h.PowerCut()
	h.Start()
	h.WaitReady()
	// At first the API says what was true before: ready, in containers that are gone.
	s.eventually("new containers after the power cut", func() error {
		for name, id := range s.containerIDs() {
			if id == before[name] {
				return fmt.Errorf("%s is still said to run in %s", name, id)
			}
		}
		return nil
	})
	s.ready("app=dark", 2)
	s.eventually("the NodePort after the power cut", func() error { return answersOK(h.Network(), "http://"+h.Addr()+":30091/") })
}
