package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff/test/hosts"
)

// island is what runs on the agent: a Deployment whose pods need a ConfigMap,
// a Secret and a token to start, a StatefulSet with a volume, Services, a
// policy, and a Job.
const island = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: green}
---
apiVersion: v1
kind: Secret
metadata: {name: safe}
stringData: {key: very-hidden-value}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: {kubernetes.io/hostname: agent}
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: IMAGE
        imagePullPolicy: Never
        command: [/tool, serve]
        env: [{name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}]
        volumeMounts: [{name: safe, mountPath: /safe}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
      volumes: [{name: safe, secret: {secretName: safe}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: store}
spec:
  replicas: 1
  serviceName: store
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec:
      nodeSelector: {kubernetes.io/hostname: agent}
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: IMAGE
        imagePullPolicy: Never
        command: [sh, -c, "echo started >>/data/starts; exec /tool serve"]
        volumeMounts: [{name: data, mountPath: /data}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Service
metadata: {name: store}
spec: {clusterIP: None, selector: {app: store}, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, labels: {app: stranger}}
spec:
  nodeName: agent
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve], readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: store}
spec: {podSelector: {matchLabels: {app: store}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: goes, labels: {app: goes}}
spec:
  nodeName: agent
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: IMAGE, imagePullPolicy: Never, command: [/tool, serve]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  template:
    spec:
      nodeSelector: {kubernetes.io/hostname: agent}
      restartPolicy: OnFailure
      containers:
      - name: c
        image: IMAGE
        imagePullPolicy: Never
        command: [sh, -c, "echo ran >>/log/once"]
        volumeMounts: [{name: log, mountPath: /log}]
      volumes: [{name: log, hostPath: {path: /var/lib/once, type: DirectoryOrCreate}}]
`

// TestOffline takes the only server away from an agent and then its power: what
// ran there runs again. And when the server is back, nothing is restarted for it.
func TestOffline(t *testing.T) {
	t.Parallel()
	network := hosts.NewNetwork(t)
	server := newHost(t, hosts.Named("server"), hosts.On(network))
	agent := newHost(t, hosts.Named("agent"), hosts.On(network))
	server.StartServer()
	agent.StartAgent(server)
	server.WaitReady()
	agent.WaitReady()
	s := newSpace(t, server, "island")
	s.apply(island)
	s.ready("app=web", 2)
	s.ready("app=store", 1)
	s.ready("app=stranger", 1)
	s.ready("app=goes", 1)
	s.eventually("the job is done", func() error {
		if n := s.kubectl("get", "job", "once", "-o", "jsonpath={.status.succeeded}"); n != "1" {
			return fmt.Errorf("%q pods have succeeded", n)
		}
		return nil
	})
	i := &inside{t: t, Host: agent, ns: s.ns, colour: "green"}
	i.eventually("the service as long as there is a server", i.works)
	if state := agent.ReadFile("/var/lib/skiff/agent/offline/state"); strings.Contains(state, "very-hidden-value") {
		t.Error("the node keeps Secrets in clear text")
	}
	// What the agent has just heard of may still wait to be written.
	time.Sleep(16 * time.Second)

	server.Stop()
	for n := range 2 {
		agent.PowerCut()
		begin := time.Now()
		agent.Start()
		i.eventually("pods, Services, names and policies without a server", i.works)
		t.Logf("start %d without a server: all works after %s", n+1, time.Since(begin).Round(100*time.Millisecond))
		agent.WaitReady()
		t.Logf("start %d without a server: ready after %s", n+1, time.Since(begin).Round(100*time.Millisecond))
	}
	contains(t, "status", agent.Status().Stdout, "no server is in reach")
	if ran := agent.ReadFile("/var/lib/once/once"); ran != "ran\n" {
		t.Errorf("the job has run again: %q", ran)
	}
	if starts := i.in("store-0", "cat", "/data/starts"); strings.Count(starts, "started") != 3 {
		t.Errorf("the volume says %q", starts)
	}

	// The server comes back and does not see the agent at first.
	before := i.containers()
	agent.Cut(server)
	server.Start()
	server.WaitReady()
	s.kubectl("delete", "pod", "goes", "--force", "--grace-period=0")
	s.kubectl("patch", "configmap", "settings", "-p", `{"data":{"colour":"blue"}}`)
	begin := time.Now()
	agent.Heal(server)
	i.eventually("the deleted pod goes", func() error {
		if i.container("goes") != "" {
			return fmt.Errorf("it still runs")
		}
		return nil
	})
	t.Logf("a pod that was deleted meanwhile is gone %s after the server is in reach", time.Since(begin).Round(100*time.Millisecond))
	s.eventually("both nodes ready", func() error { return nodesReady(server, 2) })
	s.ready("app=web", 2)
	s.ready("app=store", 1)
	i.eventually("the services with a server again", i.works)
	before = slices.DeleteFunc(before, func(c string) bool { return strings.HasPrefix(c, "goes ") })
	slices.Sort(before)
	if after := i.containers(); !slices.Equal(before, after) {
		t.Errorf("containers before and after the server was back:\n%v\n%v", before, after)
	}
	contains(t, "the job", s.kubectl("get", "job", "once", "-o", "jsonpath={.status}"), `"succeeded":1`)
	if notes := agent.Status().Stdout; strings.Contains(notes, "no server is in reach") {
		t.Errorf("status still says that there is no server:\n%s", notes)
	}
	killed(t, s, agent, i)
}

// killed kills skiff on the agent again and again while it writes down what
// happens, and then takes the server away: what was written is of use.
func killed(t *testing.T, s *space, agent *hosts.Host, i *inside) {
	for n := range 5 {
		for k := range 20 {
			for _, p := range s.pods("app=web") {
				label := fmt.Appendf(nil, `{"metadata":{"labels":{"churn":"%d-%d"}}}`, n, k)
				if _, err := s.kube.CoreV1().Pods(s.ns).Patch(t.Context(), p.Name, types.MergePatchType, label, metav1.PatchOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(time.Duration(n) * 250 * time.Millisecond) // What has changed is written within a second.
		agent.Kill9()
		agent.Start()
	}
	agent.WaitReady()
	s.Stop()
	agent.PowerCut()
	agent.Start()
	i.colour = "blue" // What was changed meanwhile is known, too.
	i.eventually("pods, Services, names and policies after kill -9", i.works)
}

// inside looks at a node without asking a server.
type inside struct {
	*hosts.Host
	t      *testing.T
	ns     string
	colour string // that pods find in the ConfigMap when they start
}

func (i *inside) eventually(what string, check func() error) {
	i.t.Helper()
	hosts.Eventually(i.t, patience, what, check)
}

// container is the running container of the newest pod with this name, "" if there is none.
func (i *inside) container(pod string) string {
	r := i.Exec("skiff", "crictl", "ps", "-q", "--label", "io.kubernetes.pod.name="+pod)
	id, _, _ := strings.Cut(strings.TrimSpace(r.Stdout), "\n")
	return id
}

// containers are the running containers, with their pods' names.
func (i *inside) containers() []string {
	var all []string
	for _, pod := range append(i.pods("web-"), "store-0", "stranger", "goes") {
		if id := i.container(pod); id != "" {
			all = append(all, pod+" "+id)
		}
	}
	slices.Sort(all)
	return all
}

// pods are the names of pods that run and begin so.
func (i *inside) pods(prefix string) []string {
	r := i.Exec("skiff", "crictl", "pods", "--state", "Ready", "--namespace", i.ns)
	var found []string
	for word := range strings.FieldsSeq(r.Stdout) {
		if strings.HasPrefix(word, prefix) {
			found = append(found, word)
		}
	}
	return found
}

func (i *inside) try(pod string, args ...string) (string, error) {
	id := i.container(pod)
	if id == "" {
		return "", fmt.Errorf("no container of %s runs", pod)
	}
	r := i.Exec(append([]string{"skiff", "crictl", "exec", id}, args...)...)
	if r.Code != 0 {
		return "", fmt.Errorf("in %s: %s", pod, r)
	}
	return r.Stdout, nil
}

func (i *inside) in(pod string, args ...string) string {
	i.t.Helper()
	out, err := i.try(pod, args...)
	if err != nil {
		i.t.Error(err)
	}
	return out
}

// works reports whether everything on the node does what it is there for.
func (i *inside) works() error {
	web := i.pods("web-")
	if len(web) != 2 {
		return fmt.Errorf("pods %v run, want two", web)
	}
	for _, c := range []struct {
		pod  string
		want string
		args []string
	}{
		{web[0], "very-hidden-value", []string{"cat", "/safe/key"}},
		{web[0], "ey", []string{"cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"}},
		{web[1], "COLOUR=" + i.colour, []string{"/tool", "get", "http://web/"}},
		{"stranger", `"host":"web-`, []string{"sh", "-c", "for i in $(seq 10); do /tool get http://web/ || exit 1; done"}},
		{web[1], `"host":"store-0"`, []string{"/tool", "get", "http://store-0.store." + i.ns + ".svc.cluster.local:8080/"}},
		{"store-0", "started", []string{"cat", "/data/starts"}},
	} {
		out, err := i.try(c.pod, c.args...)
		if err != nil {
			return err
		}
		if !strings.Contains(out, c.want) {
			return fmt.Errorf("%v in %s says %q, want %q", c.args, c.pod, out, c.want)
		}
	}
	// The policy lets the stranger in nowhere; what it may not reach it must not.
	out, err := i.try("stranger", "/tool", "lookup", "store-0.store."+i.ns+".svc.cluster.local")
	if err != nil {
		return err
	}
	address := strings.Fields(out)
	if len(address) == 0 {
		return fmt.Errorf("the name of store-0 has no address")
	}
	out, err = i.try("stranger", "/tool", "reach", address[0]+":8080")
	if err == nil && strings.Contains(out, "yes ") {
		i.t.Errorf("the policy is not in force: the stranger reaches %s", address[0])
	}
	return nil
}
