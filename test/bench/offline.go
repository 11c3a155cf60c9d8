package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"skiff/test/hosts"
	"skiff/test/images"
)

// islandPods is how many pods start again without a server.
const islandPods = 10

// islandPort is the NodePort of their Service.
const islandPort = "30990"

const islandYAML = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: island}
spec:
  replicas: %d
  selector: {matchLabels: {app: island}}
  template:
    metadata: {labels: {app: island}}
    spec:
      nodeSelector: {kubernetes.io/hostname: %s}
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: %s, imagePullPolicy: Never, command: [/tool, serve]}]
---
apiVersion: v1
kind: Service
metadata: {name: island}
spec: {type: NodePort, selector: {app: island}, ports: [{port: 80, targetPort: 8080, nodePort: %s}]}
`

// withoutServer cuts the power of an agent, and takes its server away before:
// how long until what ran there runs again. The server is off afterwards.
func (n *node) withoutServer(server *node, archive string) {
	image, err := os.ReadFile(archive)
	if err != nil {
		n.p.Fatalf("%v", err)
	}
	n.WriteFile("/var/lib/skiff/agent/images/tool.tar", string(image))
	server.Apply(fmt.Sprintf(islandYAML, islandPods, n.Name(), images.Tool, islandPort))
	n.runningPods("island", islandPods)
	n.served()
	time.Sleep(20 * time.Second) // A node writes down what it hears of Services after 15.
	server.Stop()
	n.PowerCut()
	begin := time.Now()
	n.Start()
	n.WaitReady()
	n.f.since("agent: power cut without a server, exec to all ready", begin)
	n.served()
	n.f.since("agent: power cut without a server, exec to a Service's answer", begin)
	n.runningPods("island", islandPods)
	n.f.since(fmt.Sprintf("agent: power cut without a server, exec to %d pods running", islandPods), begin)
}

// runningPods waits until this many containers run in pods whose names begin so, as the node itself sees it.
func (n *node) runningPods(prefix string, want int) {
	n.poll("pods to run without a server", func() bool {
		out := n.Exec("skiff", "crictl", "ps", "--state", "Running").Stdout
		return strings.Count(out, " "+prefix+"-") >= want
	})
}

// served waits until the Service answers on the node's own address.
func (n *node) served() {
	url := "http://" + net.JoinHostPort(n.Addr(), islandPort) + "/"
	n.poll("an answer of the Service", func() bool {
		code, _, err := hosts.Get(n.Network(), url)
		return err == nil && code == 200
	})
}
