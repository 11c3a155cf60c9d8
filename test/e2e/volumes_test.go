package e2e

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"skiff/test/hosts"
)

// volumes mounts every kind of volume that needs no storage driver.
func volumes(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "volumes")
	h.WriteFile("/var/lib/given/file", "from the host")
	s.apply(`
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, size: large}
---
apiVersion: v1
kind: Secret
metadata: {name: secret}
stringData: {password: s3cret}
---
apiVersion: v1
kind: Pod
metadata: {name: pod, labels: {app: pod}}
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: secret, secret: {secretName: secret, defaultMode: 0400}}
  - name: all
    projected:
      sources:
      - configMap: {name: settings, items: [{key: colour, path: a/colour}]}
      - secret: {name: secret}
      - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
      - serviceAccountToken: {path: token, audience: elsewhere, expirationSeconds: 600}
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 8Mi}}
  - {name: host, hostPath: {path: /var/lib/given, type: Directory}}
  containers:
  - name: one
    image: IMAGE
    imagePullPolicy: Never
    command: [sleep, "86400"]
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: secret, key: password}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    volumeMounts: &mounts
    - {name: settings, mountPath: /settings}
    - {name: settings, mountPath: /one-file, subPath: size}
    - {name: secret, mountPath: /secret, readOnly: true}
    - {name: all, mountPath: /all}
    - {name: disk, mountPath: /disk}
    - {name: memory, mountPath: /memory}
    - {name: host, mountPath: /host}
  - name: two
    image: IMAGE
    imagePullPolicy: Never
    command: [sleep, "86400"]
    volumeMounts:
    - {name: disk, mountPath: /disk}
`)
	s.ready("app=pod", 1)
	for file, want := range map[string]string{
		"/settings/colour": "blue", "/one-file": "large", "/secret/password": "s3cret",
		"/all/a/colour": "blue", "/all/password": "s3cret", "/all/labels": `app="pod"`, "/host/file": "from the host",
	} {
		contains(t, file, s.in("pod", "cat", file), want)
	}
	contains(t, "token", s.in("pod", "cat", "/all/token"), "ey")
	contains(t, "environment", s.in("pod", "env"), "COLOUR=blue", "PASSWORD=s3cret", "NODE="+h.Name())
	contains(t, "mounts", s.in("pod", "mount"), "tmpfs on /memory ")

	s.in("pod", "sh", "-c", "echo shared >/disk/x; echo back >/host/from-pod")
	contains(t, "emptyDir between containers", s.kubectl("exec", "pod", "-c", "two", "--", "cat", "/disk/x"), "shared")
	contains(t, "hostPath", h.ReadFile("/var/lib/given/from-pod"), "back")
}

// probes checks that readiness gates a Service, that a startup probe holds the
// others back and that a failed liveness probe restarts the container.
func probes(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "probes")
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: slow, labels: {app: slow}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: IMAGE
    imagePullPolicy: Never
    command: [/tool, ready, /tmp/go]
    startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 30}
    readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: sick, labels: {app: sick}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: IMAGE
    imagePullPolicy: Never
    command: [sh, -c, "touch /tmp/well; sleep 86400"]
    livenessProbe: {exec: {command: [cat, /tmp/well]}, periodSeconds: 1, failureThreshold: 1, initialDelaySeconds: 2}
---
apiVersion: v1
kind: Service
metadata: {name: slow}
spec: {selector: {app: slow}, ports: [{port: 80, targetPort: 8080}]}
`)
	s.eventually("the slow pod to be started but not ready", func() error {
		p := s.pod("slow")
		if c := p.Status.ContainerStatuses; len(c) == 1 && c[0].Started != nil && *c[0].Started && !c[0].Ready {
			return nil
		}
		return fmt.Errorf("%s", describe(p))
	})
	endpoints := func() string {
		return s.kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name=slow", "-o", "jsonpath={.items[*].endpoints[*].conditions.ready}")
	}
	s.eventually("the Service to know the pod as not ready", func() error {
		if got := endpoints(); got != "false" {
			return fmt.Errorf("ready: %q", got)
		}
		return nil
	})
	s.in("slow", "touch", "/tmp/go")
	s.ready("app=slow", 1)
	s.eventually("the Service to have a ready endpoint", func() error {
		if got := endpoints(); got != "true" {
			return fmt.Errorf("ready: %q", got)
		}
		return nil
	})

	s.ready("app=sick", 1)
	s.in("sick", "rm", "/tmp/well")
	s.eventually("a restart of the sick pod", func() error {
		if p := s.pod("sick"); len(p.Status.ContainerStatuses) != 1 || p.Status.ContainerStatuses[0].RestartCount == 0 {
			return fmt.Errorf("%s", describe(p))
		}
		return nil
	})
}

// limits checks that memory and CPU limits reach the kernel.
func limits(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "limits")
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: hog}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: IMAGE
    imagePullPolicy: Never
    command: [/tool, hog, "256"]
    resources: {limits: {memory: 64Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: modest, labels: {app: modest}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: IMAGE
    imagePullPolicy: Never
    command: [/tool, hog, "16"]
    resources: {limits: {memory: 64Mi, cpu: 250m}}
`)
	s.eventually("the hog to be killed", func() error {
		p := s.pod("hog")
		if c := p.Status.ContainerStatuses; len(c) == 1 && c[0].State.Terminated != nil && c[0].State.Terminated.Reason == "OOMKilled" && p.Status.Phase == corev1.PodFailed {
			return nil
		}
		return fmt.Errorf("%s", describe(p))
	})
	s.ready("app=modest", 1)
	quota := s.in("modest", "sh", "-c", "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || true")
	contains(t, "CPU quota of a pod limited to 250m", quota, "25000")
}
