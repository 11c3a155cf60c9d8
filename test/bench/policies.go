package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/vishvananda/netns"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff/pkg/agent/netpol/kernel"
	"skiff/pkg/agent/netpol/plan"
	"skiff/test/hosts"
)

// namespaces that the pods and policies of policyLoad are spread over.
const namespaces = 50

// policyRound measures how long it takes from knowing that many policies, and
// twice as many pods on this node, to having them in the kernel, and how long
// one pod more takes. It is below the API, which is measured by itself.
func policyRound(p *hosts.Program, policies int, f figures) {
	if err := os.Setenv("PATH", filepath.Join(hosts.Root(p), "build/payload")+":"+os.Getenv("PATH")); err != nil {
		p.Fatalf("%v", err)
	}
	all, one, err := programPolicies(context.Background(), policies)
	if err != nil {
		p.Fatalf("program policies: %v", err)
	}
	f.add("policy_programming_seconds", "s", all.Seconds())
	f.add("policy_programming_one_pod_seconds", "s", one.Seconds())
}

// programPolicies does so in a network namespace of its own.
func programPolicies(ctx context.Context, policies int) (all, one time.Duration, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // The thread ends with the goroutine, and the namespace with it.
		ns, nerr := netns.New()
		if nerr != nil {
			err = nerr
			return
		}
		defer ns.Close()
		var table kernel.Table
		begin := time.Now()
		planner := plan.New(plan.Base{IPv4: true, Bridge: "cni0"})
		if err = policyLoad(planner, policies); err != nil {
			return
		}
		if err = table.Apply(ctx, planner.All()); err != nil {
			return
		}
		all = time.Since(begin)
		begin = time.Now()
		planner.SetPod(loadPod(2 * policies))
		if err = table.Apply(ctx, planner.Flush()); err != nil {
			return
		}
		one = time.Since(begin)
	}()
	<-done
	return all, one, err
}

func policyLoad(p *plan.Planner, policies int) error {
	for i := range namespaces {
		p.SetNamespace(fmt.Sprint("ns", i), labels.Set{"team": fmt.Sprint("team", i%10)})
	}
	for i := range 2 * policies {
		p.SetPod(loadPod(i))
	}
	for i := range policies {
		if err := p.SetPolicy(loadPolicy(i)); err != nil {
			return err
		}
	}
	return nil
}

func loadPod(i int) *plan.Pod {
	return &plan.Pod{
		Key: plan.Key{Namespace: fmt.Sprint("ns", i%namespaces), Name: fmt.Sprint("pod", i)}, Local: true,
		Labels: labels.Set{"app": fmt.Sprint("app", i%7), "tier": fmt.Sprint("tier", i%3)},
		IPs:    []netip.Addr{netip.AddrFrom4([4]byte{10, 42, byte(i / 250), byte(2 + i%250)})},
	}
}

// loadPolicy has the ingress by pods, namespaces and ports, and the egress by
// addresses, that policies of real clusters have.
func loadPolicy(i int) *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{}
	np.Namespace, np.Name = fmt.Sprint("ns", i%namespaces), fmt.Sprint("policy", i)
	match := func(key string, n int) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{key: fmt.Sprint(key, n)}}
	}
	np.Spec = networkingv1.NetworkPolicySpec{
		PodSelector: *match("app", i%7),
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		Ingress: []networkingv1.NetworkPolicyIngressRule{{
			From: []networkingv1.NetworkPolicyPeer{{PodSelector: match("tier", i%3)}, {NamespaceSelector: match("team", i%10)}},
			Ports: []networkingv1.NetworkPolicyPort{
				{Port: new(intstr.FromInt32(int32(80 + i)))},
				{Port: new(intstr.FromInt32(9000)), EndPort: new(int32(9100))},
			},
		}},
		Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{
			IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8", Except: []string{fmt.Sprintf("10.%d.0.0/16", i%250)}},
		}}}},
	}
	return np
}
