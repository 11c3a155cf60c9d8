package e2e

import (
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skiff/scripts/dist/image"
	"skiff/test/hosts"
	"skiff/test/images"
)

// containerPod is a machine that is a container of skiff's own image, as k3d
// makes them: nothing else is in the image, and it is privileged.
const containerPod = `
apiVersion: v1
kind: Pod
metadata: {name: %[1]s}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: skiff
    image: %[2]s
    imagePullPolicy: Never
    args: [%[3]s]
    securityContext: {privileged: true}
    volumeMounts: [{name: images, mountPath: /var/lib/skiff/agent/images}]
  volumes:
  - name: images
    hostPath: {path: /var/lib/inside}
`

// TestContainer runs a server and an agent in containers on a skiff host. It
// is the image's own test: /bin/skiff is all there is, without mount, without
// /tmp, without certificates.
func TestContainer(t *testing.T) {
	if os.Getenv("SKIFF_SOAK") != "1" {
		t.Skip("SKIFF_SOAK=1 runs this (make soak): three nodes, the executable unpacked twice")
	}
	t.Parallel()
	h := newHost(t, hosts.Named("outside"))
	o := image.Options{Skiff: hosts.Binary(t), Version: "v0.0.0+test", Created: time.Unix(0, 0), Level: gzip.BestSpeed}
	archive := filepath.Join(t.TempDir(), "skiff.tar")
	if err := image.Write(archive, o); err != nil {
		t.Fatal(err)
	}
	copyImage(t, h, archive, "skiff.tar")
	tool, err := os.ReadFile(toolArchive)
	if err != nil {
		t.Fatal(err)
	}
	h.WriteFile("/var/lib/inside/tool.tar", string(tool))
	h.StartServer()
	h.WaitReady()

	h.Apply(fmt.Sprintf(containerPod, "server", o.Ref(), `server, --token, sesame, --cluster-cidr, 10.52.0.0/16, --service-cidr, 10.53.0.0/16`))
	h.Kubectl("wait", "--for=condition=Ready", "--timeout=120s", "pod/server")
	address := strings.TrimSpace(h.Kubectl("get", "pod", "server", "-o", "jsonpath={.status.podIP}"))
	h.Apply(fmt.Sprintf(containerPod, "agent", o.Ref(), `agent, --token, sesame, --server, "https://`+address+`:6443"`))

	in := func(pod string, args ...string) hosts.Result {
		return h.Exec(append([]string{"skiff", "kubectl", "exec", pod, "--", "skiff"}, args...)...)
	}
	for _, pod := range []string{"server", "agent"} {
		hosts.Eventually(t, 2*time.Minute, "all of "+pod+" to be ready", func() error {
			if r := in(pod, "status"); r.Code != 0 {
				return fmt.Errorf("%s\n%s", r, h.Exec("skiff", "kubectl", "logs", pod, "--tail=20"))
			}
			return nil
		})
	}
	nodes := in("server", "kubectl", "get", "nodes", "--no-headers")
	contains(t, "kubectl get nodes in the container", nodes.Stdout, "server ", "agent ")
	if strings.Contains(nodes.Stdout, "NotReady") {
		t.Errorf("not all nodes inside are ready: %s", nodes)
	}

	// Pods inside: on each node one, with a token (which is a mount), and names.
	for _, node := range []string{"server", "agent"} {
		if r := in("server", "kubectl", "run", "web-"+node, "--image="+images.Tool, "--image-pull-policy=Never",
			`--overrides={"spec":{"nodeName":"`+node+`"}}`); r.Code != 0 {
			t.Fatalf("run a pod inside: %s", r)
		}
	}
	for _, node := range []string{"server", "agent"} {
		if r := in("server", "kubectl", "wait", "--for=condition=Ready", "--timeout=90s", "pod/web-"+node); r.Code != 0 {
			t.Fatalf("the pod on %s inside is not ready: %s\n%s", node, r, in("server", "kubectl", "describe", "pod", "web-"+node))
		}
		r := in("server", "kubectl", "exec", "web-"+node, "--", "/tool", "get", "https://kubernetes.default/version")
		contains(t, "the API from the pod on "+node+" inside", r.String(), "v1.36")
	}
}
