package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"skiff/test/hosts"
)

const (
	// loadConns are kept open and busy, the same for both proxies.
	loadConns = 64
	// loadRuns alternate between the proxies, so that both see the same noise of the machine.
	loadRuns = 9
	// backendPort and nginxPort are on the host; the ingress is on 80.
	backendPort, nginxPort = 9900, 9901
)

// nginxConf is for two proxies' worth of work: the backend that both forward to, and the proxy to compare with, set as a person would who wants
// speed (kept connections to the backend) and the same headers as ours.
const nginxConf = `daemon off; master_process on; worker_processes %d; pid %[2]s/pid; error_log %[2]s/error; worker_rlimit_nofile 8192; user root;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy; fastcgi_temp_path %[2]s/fastcgi; uwsgi_temp_path %[2]s/uwsgi; scgi_temp_path %[2]s/scgi;
  upstream b { server 127.0.0.1:%[3]d; keepalive 256; keepalive_requests 1000000000; }
  server { listen %[4]s:%[5]d; location / {
    %[6]s
  } }
}
`

const nginxAnswers = `default_type text/plain; return 200 "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";`

const nginxForwards = `proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Port $server_port;`

// benchIngress points an Ingress at the backend on the host.
const benchIngress = `
apiVersion: v1
kind: Service
metadata: {name: bench}
spec: {ports: [{name: http, port: 80, targetPort: %[2]d}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: bench, labels: {kubernetes.io/service-name: bench}}
addressType: IPv4
ports: [{name: http, port: %[2]d}]
endpoints: [{addresses: [%[1]q], conditions: {ready: true}}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: bench}
spec:
  rules:
  - host: bench.test
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: bench, port: {name: http}}}}]}
`

// nginx is Debian's, installed or unpacked by make bench-ingress; empty if there is none.
func nginx(p hosts.T) string {
	unpacked := filepath.Join(hosts.Root(p), "build", "tools", "nginx")
	for _, path := range []string{"nginx", "/usr/sbin/nginx", unpacked} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	return ""
}

// ingress compares skiff's ingress with nginx: the same backend, the same load, one after the other.
func (n *node) ingress(each time.Duration) {
	program := nginx(n.p)
	if program == "" {
		n.p.Logf("no nginx here: the ingress is not measured (make bench-ingress brings one)")
		return
	}
	n.startNginx(program, "backend", 1, "0.0.0.0", backendPort, nginxAnswers)
	n.startNginx(program, "proxy", 2, "0.0.0.0", nginxPort, nginxForwards)
	n.Apply(fmt.Sprintf(benchIngress, n.Addr(), backendPort))
	loads := map[string]*traffic{
		"nginx":   {dial: n.DialContext, address: net.JoinHostPort(n.Addr(), fmt.Sprint(nginxPort)), host: "bench.test", conns: loadConns},
		"ingress": {dial: n.DialContext, address: net.JoinHostPort(n.Addr(), "80"), host: "bench.test", conns: loadConns},
	}
	for name, l := range loads {
		if err := hosts.Poll(limit, func() error { _, err := l.run(50 * time.Millisecond); return err }); err != nil {
			n.p.Fatalf("wait for %s to answer: %v", name, err)
		}
	}
	for range loadRuns {
		rps, p99 := map[string]float64{}, map[string]float64{}
		for _, name := range []string{"nginx", "ingress"} {
			if _, err := loads[name].run(each / 5); err != nil {
				n.p.Fatalf("warm up %s: %v", name, err)
			}
			r, err := loads[name].run(each)
			if err != nil {
				n.p.Fatalf("load %s: %v", name, err)
			}
			rps[name], p99[name] = r.perSecond(), r.p99()
			n.f.add("ingress: "+name+" requests", "1/s", rps[name])
			n.f.add("ingress: "+name+" p99", "ms", p99[name])
		}
		n.f.add("ingress: requests compared with nginx", "%", rps["ingress"]/rps["nginx"]*100)
		n.f.add("ingress: p99 compared with nginx", "times", p99["ingress"]/p99["nginx"])
	}
}

// startNginx runs an nginx on the host.
func (n *node) startNginx(program, name string, workers int, address string, port int, does string) {
	dir := "/tmp/nginx-" + name
	n.WriteFile(dir+"/conf", fmt.Sprintf(nginxConf, workers, dir, backendPort, address, port, does))
	server := n.Spawn(hosts.Command{Args: []string{program, "-c", dir + "/conf", "-p", dir, "-e", dir + "/error"}, Stderr: os.Stderr})
	begin := time.Now()
	for time.Since(begin) < 5*time.Second {
		if c, err := n.DialContext(context.Background(), "tcp", net.JoinHostPort(n.Addr(), fmt.Sprint(port))); err == nil {
			_ = c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	select {
	case <-server.Exited():
		n.p.Fatalf("nginx as %s has ended: %s", name, n.ReadFile(dir+"/error"))
	default:
		n.p.Fatalf("nginx as %s does not listen", name)
	}
}
