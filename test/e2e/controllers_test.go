package e2e

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/test/hosts"
)

// jobs runs a Job to its end, a failing one to its back-off limit, and waits
// for a CronJob's minute.
func jobs(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "jobs")
	job := func(name, command string) string {
		return fmt.Sprintf(`
apiVersion: batch/v1
kind: Job
metadata: {name: %s}
spec:
  backoffLimit: 0
  completions: 2
  parallelism: 2
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: "IMAGE", imagePullPolicy: Never, command: [sh, -c, %q]}]
---`, name, command)
	}
	s.apply(job("good", "echo done") + job("bad", "exit 3") + `
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: "* * * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: c, image: "IMAGE", imagePullPolicy: Never, command: [echo, tick]}]
`)
	s.kubectl("wait", "job/good", "--for=condition=Complete", "--timeout=90s")
	s.kubectl("wait", "job/bad", "--for=condition=Failed", "--timeout=90s")
	contains(t, "logs of the job", s.kubectl("logs", "job/good"), "done")
	s.eventually("a run of the CronJob", func() error {
		list, err := s.kube.BatchV1().Jobs(s.ns).List(s.t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, j := range list.Items {
			if strings.HasPrefix(j.Name, "tick-") && j.Status.Succeeded == 1 {
				return nil
			}
		}
		return fmt.Errorf("no job of tick has succeeded")
	})
}

// stateful brings a StatefulSet up in order, with stable names in DNS, and
// keeps the identity of a pod that is deleted.
func stateful(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "stateful")
	s.apply(`
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: "IMAGE", imagePullPolicy: Never, command: [/tool, serve]}]
`)
	pods := s.ready("app=db", 2)
	if pods[1].Status.StartTime.Before(pods[0].Status.StartTime) {
		t.Errorf("%s has started before %s", pods[1].Name, pods[0].Name)
	}
	s.eventually("db-1 by its name", func() error {
		out, err := s.tryIn("db-0", "/tool", "get", "http://db-1.db:8080/")
		if err == nil && !strings.Contains(out, `"host":"db-1"`) {
			err = fmt.Errorf("got %s", out)
		}
		return err
	})
	old := pods[1].UID
	s.kubectl("delete", "pod", "db-1", "--wait=false")
	s.eventually("a new db-1", func() error {
		for _, p := range s.pods("app=db") {
			if p.Name == "db-1" && p.UID != old && isReady(&p) {
				return nil
			}
		}
		return fmt.Errorf("the old one or none is there")
	})
}

// daemon runs a DaemonSet on the node, and has an autoscaler accepted.
func daemon(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "daemon")
	s.apply(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: "IMAGE", imagePullPolicy: Never, command: [/tool, serve, ":18999"]}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 1
  maxReplicas: 3
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
`)
	pods := s.ready("app=agent", 1)
	if pods[0].Spec.NodeName != h.Name() {
		t.Errorf("the DaemonSet's pod is on %q, want %s", pods[0].Spec.NodeName, h.Name())
	}
	s.eventually("the pod on the host's network", func() error { return answersOK(h.Network(), "http://"+h.Addr()+":18999/") })
	contains(t, "autoscaler", s.kubectl("get", "hpa", "web"), "Deployment/web")
}
