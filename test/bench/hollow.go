package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff/pkg/join"
	"skiff/pkg/token"
	"skiff/test/hosts"
)

const (
	// hollowPods are on each hollow node in the end.
	hollowPods = 10
	// hollowObjects is the API load among hollow nodes.
	hollowObjects = 500
	hollowPort    = 20000
)

// watched is what the parts of an agent that a hollow kubelet does not have
// keep a watch on: kube-proxy, DNS, network policy, flannel and storage.
var watched = []string{
	"/api/v1/services", "/api/v1/pods", "/api/v1/namespaces", "/api/v1/nodes", "/api/v1/persistentvolumeclaims", "/api/v1/persistentvolumes",
	"/apis/discovery.k8s.io/v1/endpointslices", "/apis/networking.k8s.io/v1/networkpolicies",
}

// field is a host with hollow nodes: upstream's kubelet without containers
// (kubemark), each with an identity of its own that it got by joining.
type field struct {
	*node
	host    *hosts.Host
	program string
	dir     string // of identities; both hosts and this program see it
}

// hollowRound measures a server with so many nodes.
func hollowRound(p *hosts.Program, count int, settle time.Duration, f figures) {
	dir, err := os.MkdirTemp("/var/tmp", "skiff-hollow-")
	if err != nil {
		p.Fatalf("%v", err)
	}
	p.Cleanup(func() { _ = os.RemoveAll(dir) })
	program := filepath.Join(dir, "kubemark")
	if out, err := exec.Command("go", "build", "-o", program, "k8s.io/kubernetes/cmd/kubemark").CombinedOutput(); err != nil {
		p.Fatalf("build kubemark: %v\n%s", err, out)
	}
	network := hosts.NewNetwork(p)
	server := &node{Host: hosts.New(p, hosts.On(network), hosts.Named("server")), p: p, f: f, prefix: fmt.Sprintf("API with %d nodes", count)}
	server.StartServer()
	server.connect()
	server.WaitReady()
	time.Sleep(settle)
	alone := server.anonymous("skiff")

	d := &field{node: server, host: hosts.New(p, hosts.On(network), hosts.Named("field")), program: program, dir: dir}
	ctx, stop := context.WithCancel(context.Background())
	p.Cleanup(stop)
	begin := time.Now()
	for i := range count {
		d.add(ctx, i)
	}
	d.wait("hollow nodes", count, d.readyNodes)
	f.since(fmt.Sprintf("%d nodes: join → all Ready", count), begin)
	time.Sleep(settle)
	f.add("server memory for each idle node, anonymous", "MiB", (server.anonymous("skiff")-alone)/float64(count))
	before, cpu := server.usages(), time.Now()
	time.Sleep(settle / 2)
	f.add(fmt.Sprintf("CPU of a server with %d idle nodes, of one core", count), "%", server.cpuSince(before)/time.Since(cpu).Seconds()*100)

	begin = time.Now()
	d.deploy(ctx, int32(count*hollowPods))
	d.wait("pods on hollow nodes", count*hollowPods, d.readyPods)
	f.since(fmt.Sprintf("%d pods on %d nodes: create → all Ready", count*hollowPods, count), begin)
	server.apiLoad(hollowObjects)
	time.Sleep(settle)
	f.add(fmt.Sprintf("server memory for each node with %d pods, anonymous", hollowPods), "MiB", (server.anonymous("skiff")-alone)/float64(count))
}

// anonymous is the memory of the processes of a kind, in MiB.
func (n *node) anonymous(kind string) (sum float64) {
	for _, u := range n.usages() {
		if u.kind == kind {
			sum += u.anon / 1024
		}
	}
	return sum
}

// cpuSince is what the platform's processes have used since, in seconds.
func (n *node) cpuSince(before map[int]usage) (sum float64) {
	for pid, u := range n.usages() {
		sum += u.cpu - before[pid].cpu
	}
	return sum
}

// add joins one node and starts it.
func (d *field) add(ctx context.Context, i int) {
	name := fmt.Sprintf("hollow-%03d", i)
	secret, err := token.Parse(strings.TrimSpace(d.ReadFile("/var/lib/skiff/server/token")))
	if err != nil {
		d.p.Fatalf("read the token: %v", err)
	}
	own := filepath.Join(d.dir, name)
	client := &join.Client{
		URL: "https://" + d.Addr() + ":6443", Token: secret, Dial: d.DialContext, Logger: slog.New(slog.DiscardHandler),
		TLSDir: filepath.Join(own, "tls"), CredDir: filepath.Join(own, "cred"), PasswordFile: filepath.Join(own, "password"),
	}
	info := join.NodeInfo{Name: name, Addresses: []netip.Addr{netip.MustParseAddr(d.host.Addr())}}
	var bundle *join.Bundle
	err = hosts.Poll(limit, func() (err error) {
		bundle, err = client.Join(ctx, info)
		return err
	})
	if err != nil {
		d.p.Fatalf("join %s: %v", name, err)
	}
	log, err := os.Create(filepath.Join(own, "log"))
	if err != nil {
		d.p.Fatalf("%v", err)
	}
	defer log.Close()
	d.host.Spawn(hosts.Command{Args: []string{
		d.program, "--morph=kubelet", "--name=" + name, "--kubeconfig=" + bundle.Kubeconfig("kubelet"), "--use-host-image-service=false",
		fmt.Sprintf("--kubelet-port=%d", hollowPort+i), "--kubelet-read-only-port=0", "--node-labels=hollow=true",
		"--register-with-taints=hollow=true:NoSchedule",
	}, Stdout: log, Stderr: log})
	d.watchAs(ctx, bundle.Kubeconfig("skiff-agent"))
}

// watchAs opens the watches of an agent and reads what comes.
func (d *field) watchAs(ctx context.Context, kubeconfig string) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		d.p.Fatalf("%v", err)
	}
	config.Dial = d.DialContext
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		d.p.Fatalf("%v", err)
	}
	for _, path := range watched {
		go func() {
			for ctx.Err() == nil { // the server ends a watch after some time
				read(ctx, client, config.Host+path+"?watch=1&resourceVersion=0&timeoutSeconds=1800")
				time.Sleep(time.Second)
			}
		}()
	}
}

// read reads an answer to its end, which is not looked at.
func read(ctx context.Context, client *http.Client, url string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return
	}
	request.Header.Set("Accept", "application/vnd.kubernetes.protobuf;stream=watch")
	response, err := client.Do(request)
	if err != nil {
		return
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
}

// wait waits until count things are ready.
func (d *field) wait(what string, count int, ready func() (int, error)) {
	err := hosts.Poll(5*time.Minute, func() error {
		got, err := ready()
		if err == nil && got < count {
			err = fmt.Errorf("%d of %d are Ready", got, count)
		}
		return err
	})
	if err != nil {
		d.p.Fatalf("wait for %s: %v", what, err)
	}
}

func (d *field) readyNodes() (ready int, err error) {
	list, err := d.kube.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{LabelSelector: "hollow=true", ResourceVersion: "0"})
	if err != nil {
		return 0, err
	}
	for _, n := range list.Items {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				ready++
			}
		}
	}
	return ready, nil
}

func (d *field) deploy(ctx context.Context, replicas int32) {
	labels := map[string]string{"app": "hollow"}
	_, err := d.kube.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "hollow"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				NodeSelector: map[string]string{"hollow": "true"},
				Tolerations:  []corev1.Toleration{{Key: "hollow", Operator: corev1.TolerationOpExists}},
				Containers:   []corev1.Container{{Name: "c", Image: "skiff.test/hollow"}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		d.p.Fatalf("create the Deployment: %v", err)
	}
}

func (d *field) readyPods() (int, error) {
	found, err := d.kube.AppsV1().Deployments("default").Get(context.Background(), "hollow", metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	return int(found.Status.ReadyReplicas), nil
}
