// Command tool is what the test images run. Each verb is a small program that
// a scenario needs in a pod; none knows that it is being tested.
//
//	tool serve [ADDR]     answer HTTP with host name, headers and environment
//	tool hog MIB          touch that much memory and keep it
//	tool get URL          fetch a URL, CA and token of the pod's service account
//	tool lookup NAME      print the addresses a name resolves to
//	tool reach ADDRS      print which of the addresses, separated by commas, take a connection
//	tool probe NET:PORT   print each address of a network as soon as it answers anything
//	tool ready FILE       serve /ready, which is 200 while FILE exists
//	tool grpc [ADDR]      serve the gRPC health service in clear text
//	tool dns ADDR         answer every DNS question on port 53 with this address
//	tool api [ADDR]       serve a webhook and an aggregated API, with the certificate in /cert
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
)

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: tool serve|hog|get|lookup|reach|probe|ready|grpc|dns|api …"))
	}
	argument := ""
	if len(os.Args) > 2 {
		argument = os.Args[2]
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	verbs := map[string]func(context.Context, string) error{
		"serve": serve, "hog": hog, "get": get, "lookup": lookup, "reach": reach, "probe": probe,
		"ready": ready, "grpc": serveGRPC, "dns": serveDNS, "api": serveAPI,
	}
	verb, ok := verbs[os.Args[1]]
	if !ok {
		fail(fmt.Errorf("unknown verb %q", os.Args[1]))
	}
	if err := verb(ctx, argument); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "tool:", err)
	os.Exit(1)
}

func serve(ctx context.Context, addr string) error {
	if addr == "" {
		addr = ":8080"
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Method, r.URL, "from", r.RemoteAddr)
		if websocket.IsWebSocketUpgrade(r) {
			echo(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"host": host, "path": r.URL.Path, "headers": r.Header, "env": os.Environ(), "client": r.RemoteAddr})
	})
	return listen(ctx, addr, handler)
}

func ready(ctx context.Context, file string) error {
	return listen(ctx, ":8080", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := os.Stat(file); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	}))
}

func listen(ctx context.Context, addr string, handler http.Handler) error {
	s := &http.Server{Addr: addr, Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	fmt.Println("listening on", addr)
	done := make(chan error, 1)
	go func() { done <- s.ListenAndServe() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return s.Close()
	}
}

func hog(ctx context.Context, size string) error {
	mib, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	var kept [][]byte
	for i := range mib {
		b := make([]byte, 1<<20)
		for j := 0; j < len(b); j += 4096 {
			b[j] = 1
		}
		kept = append(kept, b)
		if i%16 == 15 {
			fmt.Println("holding", i+1, "MiB")
		}
	}
	fmt.Println("holding all")
	<-ctx.Done()
	fmt.Println("let go of", len(kept), "MiB")
	return nil
}

// account is where a pod finds its service account.
const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

func get(ctx context.Context, url string) error {
	pool := x509.NewCertPool()
	if ca, err := os.ReadFile(account + "ca.crt"); err == nil {
		pool.AppendCertsFromPEM(ca)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if token, err := os.ReadFile(account + "token"); err == nil && r.URL.Scheme == "https" {
		r.Header.Set("Authorization", "Bearer "+string(token))
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	reply, err := client.Do(r)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	fmt.Fprintln(os.Stderr, reply.Status)
	_, err = io.Copy(os.Stdout, reply.Body)
	if err == nil && reply.StatusCode >= 400 {
		err = fmt.Errorf("fetch %s: %s", url, reply.Status)
	}
	return err
}

func lookup(ctx context.Context, name string) error {
	addrs, err := net.DefaultResolver.LookupHost(ctx, name)
	for _, a := range addrs {
		fmt.Println(a)
	}
	return err
}
