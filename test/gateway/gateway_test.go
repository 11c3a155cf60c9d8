// Package gateway runs the conformance suite of the Gateway API against the
// built skiff, with the suite's own back ends as real pods. The suite runs as a
// second process of this test inside the host, where the Gateways' addresses
// can be reached. The short form of `make test` has the specs of core; all that
// skiff claims run with SKIFF_GATEWAY=all (`make gateway-conformance`), which
// writes the report to SKIFF_GATEWAY_REPORT. Start reading at TestConformance.
package gateway

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"

	"skiff/test/hosts"
	"skiff/test/images"
)

const (
	envInside = "SKIFF_GATEWAY_INSIDE" // the node's address, in the second process
	envAll    = "SKIFF_GATEWAY"
	envReport = "SKIFF_GATEWAY_REPORT"
	// class is the GatewayClass that comes with skiff.
	class = "skiff"
)

// echoes are the names by which the suite's manifests call its one back end.
var echoes = []string{
	"registry.k8s.io/gateway-api/echo-basic:v1.5.1",
	"registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.2",
	"registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.3",
	// For the specs of UDP, which are not run; all pods have to be ready though.
	"registry.k8s.io/coredns/coredns:v1.12.2",
}

// short are the specs of the short form: one for each thing that core can do.
var short = []string{
	"GatewayClassObservedGenerationBump", "GatewayObservedGenerationBump", "GatewayInvalidRouteKind",
	"GatewaySecretReferenceGrantAllInNamespace", "GatewayWithAttachedRoutes",
	"HTTPRouteExactPathMatching", "HTTPRouteHeaderMatching", "HTTPRouteHostnameIntersection", "HTTPRouteHTTPSListener",
	"HTTPRouteInvalidBackendRefUnknownKind", "HTTPRouteMatchingAcrossRoutes", "HTTPRouteReferenceGrant",
	"HTTPRouteRedirectHostAndStatus", "HTTPRouteRequestHeaderModifier", "HTTPRouteSimpleSameNamespace", "HTTPRouteWeight",
}

func TestMain(m *testing.M) {
	if os.Getenv(envInside) == "" {
		hosts.Init()
	}
	os.Exit(m.Run())
}

// TestConformance starts a server and runs the suite on it.
func TestConformance(t *testing.T) {
	if os.Getenv(envInside) != "" {
		t.Skip("this is the process inside of the host")
	}
	if err := hosts.Reap(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	h := hosts.New(t, hosts.Named("gateway"), hosts.WithBind(hosts.Bind{From: dir, To: "/run/conformance"}))
	for i, archive := range echoArchives(t, dir) {
		content, err := os.ReadFile(archive)
		if err != nil {
			t.Fatal(err)
		}
		h.WriteFile(fmt.Sprintf("/var/lib/skiff/agent/images/echo-%d.tar", i), string(content))
	}
	h.StartServer()
	h.WaitReady()
	h.Kubectl("wait", "--for=condition=Accepted", "--timeout=30s", "gatewayclass/"+class)
	address := strings.TrimSpace(h.Kubectl("get", "node", "-o", "jsonpath={.items[0].status.addresses[?(@.type=='InternalIP')].address}"))

	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "suite"), self, 0o700); err != nil {
		t.Fatal(err)
	}
	args := []string{"/run/conformance/suite", "-test.run", "^TestSuite$", "-test.timeout", "40m"}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	environment := []string{
		envInside + "=" + address, envAll + "=" + os.Getenv(envAll), envReport + "=/run/conformance/report.yaml",
		"KUBECONFIG=/etc/skiff/skiff.yaml", "HOME=/root", "PATH=" + os.Getenv("PATH"),
	}
	r := h.ExecWith(hosts.Command{Args: append([]string{"env", "-i"}, append(environment, args...)...)})
	t.Log(r.Stdout)
	if r.Code != 0 {
		t.Errorf("the suite has failed: exit code %d\n%s", r.Code, r.Stderr)
	}
	if to := os.Getenv(envReport); to != "" {
		report, err := os.ReadFile(filepath.Join(dir, "report.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, report, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSuite is the suite, in the process inside of the host. What it runs are
// the specs of the features that the GatewayClass says it supports.
func TestSuite(t *testing.T) {
	if os.Getenv(envInside) == "" {
		t.Skip("TestConformance runs it inside of a host")
	}
	o := conformance.DefaultOptions(t)
	o.GatewayClassName = class
	// The host is thrown away; what the tests leave might be in the way of others.
	o.CleanupBaseResources, o.CleanupTestResources = false, true
	ip := v1.IPAddressType
	o.UsableNetworkAddresses = []v1.GatewaySpecAddress{{Type: &ip, Value: os.Getenv(envInside)}}
	o.UnusableNetworkAddresses = []v1.GatewaySpecAddress{{Type: &ip, Value: "192.0.2.99"}}
	o.ConformanceProfiles = []suite.ConformanceProfileName{suite.GatewayHTTPConformanceProfileName, suite.GatewayGRPCConformanceProfileName, suite.GatewayTLSConformanceProfileName, suite.GatewayTCPConformanceProfileName}
	o.Implementation = confv1.Implementation{
		Organization: "skiff", Project: "skiff", URL: "https://skiff.dev", Version: "v1", Contact: []string{"https://skiff.dev"},
	}
	if os.Getenv(envAll) == "all" {
		o.ReportOutputPath = os.Getenv(envReport)
		conformance.RunConformanceWithOptions(t, o)
		return
	}
	s, err := suite.NewConformanceTestSuite(o)
	if err != nil {
		t.Fatal(err)
	}
	var chosen []suite.ConformanceTest
	for _, test := range tests.ConformanceTests {
		if slices.Contains(short, test.ShortName) {
			chosen = append(chosen, test)
		}
	}
	if len(chosen) != len(short) {
		t.Fatalf("found %d of the %d specs of the short form", len(chosen), len(short))
	}
	s.Setup(t, chosen)
	if err := s.Run(t, chosen); err != nil {
		t.Fatal(err)
	}
}

// echoArchives builds the suite's back end and packs it under all its names.
func echoArchives(t *testing.T, dir string) []string {
	t.Helper()
	binary := filepath.Join(dir, "echo-basic")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "sigs.k8s.io/gateway-api/conformance/echo-basic")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the suite's back end: %v\n%s", err, out)
	}
	layout := images.Layout{Dir: filepath.Join(dir, "layout")}
	var archives []string
	for i, ref := range echoes {
		image := images.Image{Ref: ref, Layers: []images.Layer{images.Dirs(0o1777, "tmp"), images.Executable(binary, "echo-basic")}, Entrypoint: []string{"/echo-basic"}}
		if err := layout.Add(image); err != nil {
			t.Fatal(err)
		}
		archive := filepath.Join(dir, fmt.Sprintf("echo-%d.tar", i))
		if err := layout.ArchiveFile(ref, archive); err != nil {
			t.Fatal(err)
		}
		archives = append(archives, archive)
	}
	return archives
}
