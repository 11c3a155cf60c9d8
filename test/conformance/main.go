// Command conformance runs the upstream end-to-end suite, unchanged, against a
// fresh skiff on a host of test/hosts, without network: test programs are built
// from Go modules and the images they use are made here. It knows nothing of
// skiff but its command line and files. Start reading at run.
//
//	conformance [-focus REGEXP] [-quick] …   build what is missing, run, sum up
//	conformance image OUT REF …              make one image (used by images.sh)
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"skiff/test/hosts"
)

// options are the flags of a run.
type options struct {
	dir     string
	focus   string
	skip    string
	labels  string
	quick   bool
	procs   int
	timeout time.Duration
	report  string
	driver  string
	agents  int
}

func main() {
	hosts.Init()
	if len(os.Args) > 1 && os.Args[1] == "image" {
		if err := makeImage(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "conformance image:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.dir, "dir", os.Getenv("CONF"), "where programs, images and reports are kept (default build/conformance)")
	flag.StringVar(&o.focus, "focus", "", "regexp over spec names (default: all that the labels select)")
	flag.StringVar(&o.skip, "skip", "", "regexp of specs to leave out")
	flag.StringVar(&o.labels, "labels", "Conformance", "ginkgo label filter")
	flag.BoolVar(&o.quick, "quick", false, "run the dozen quick specs of make test, with few images")
	flag.IntVar(&o.procs, "procs", 2*runtime.NumCPU(), "parallel workers")
	flag.DurationVar(&o.timeout, "timeout", 4*time.Hour, "limit for all specs together")
	flag.StringVar(&o.report, "report", "", "directory for the log and report.json (default DIR/report)")
	flag.StringVar(&o.driver, "driver", "", "file that describes a storage driver, to run the specs \"External Storage\" with it")
	flag.IntVar(&o.agents, "agents", 0, "nodes besides the server's")
	flag.Parse()
	os.Exit(hosts.RunProgram("conformance", os.Stderr, func(p *hosts.Program) { run(p, o) }))
}

// Where a host sees the work directory, and where skiff looks for archives.
const (
	inside    = "/run/conformance"
	imagesDir = "/var/lib/skiff/agent/images"
)

// run builds, starts a server, runs the specs in its host and sums up.
func run(p hosts.T, o options) {
	if err := hosts.Reap(); err != nil {
		p.Errorf("remove what an earlier run has left: %v", err)
	}
	if o.dir == "" {
		o.dir = filepath.Join(hosts.Root(p), "build", "conformance")
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		p.Fatalf("%v", err)
	}
	o.dir = dir
	if o.report == "" {
		o.report = filepath.Join(dir, "report")
	}
	if o.quick {
		o.focus = quickFocus()
	}
	build(p, o)
	if err := os.MkdirAll(o.report, 0o755); err != nil {
		p.Fatalf("make the report's directory: %v", err)
	}

	var verdict string
	p.Cleanup(func() { fmt.Print(verdict) }) // After the end of skiff's log.
	h := startNodes(p, o)
	begin := time.Now()
	code := ginkgo(p, h, o)
	summary, err := readReport(filepath.Join(o.report, "report.json"))
	if err != nil {
		p.Fatalf("no report of the suite (exit code %d), see %s: %v", code, filepath.Join(o.report, "log"), err)
	}
	verdict = fmt.Sprintf("%s%d passed, %d failed, %d skipped in %s; report in %s\n", summary,
		summary.passed, len(summary.failed), len(summary.skipped), time.Since(begin).Round(time.Second), o.report)
	want := 1
	if o.quick {
		want = len(quickSpecs)
	}
	if summary.passed < want {
		p.Errorf("%d specs have passed, want %d at least", summary.passed, want)
	}
	if code != 0 || len(summary.failed) > 0 {
		p.Errorf("the suite has failed")
	}
}

// build makes the test programs and the images, unless they are there.
func build(p hosts.T, o options) {
	self, err := os.Executable()
	if err != nil {
		p.Fatalf("find this program: %v", err)
	}
	env := append(os.Environ(), "CONF="+o.dir, "MKIMAGE="+self)
	if o.quick {
		env = append(env, "QUICK=1")
	}
	for _, script := range []string{"build.sh", "images.sh"} {
		c := exec.Command(filepath.Join(hosts.Root(p), "test", "conformance", script))
		c.Env, c.Stdout, c.Stderr = env, os.Stderr, os.Stderr
		if err := c.Run(); err != nil {
			p.Fatalf("run %s: %v", script, err)
		}
	}
}

// ginkgo runs the suite inside the host, where pods and Services are in reach.
func ginkgo(p hosts.T, h *hosts.Host, o options) int {
	log, err := os.Create(filepath.Join(o.report, "log"))
	if err != nil {
		p.Fatalf("%v", err)
	}
	defer log.Close()
	_ = os.Remove(filepath.Join(o.report, "report.json"))
	args := []string{
		inside + "/bin/ginkgo", "run", "--no-color", "--procs=" + strconv.Itoa(o.procs), "--timeout=" + o.timeout.String(),
		"--keep-going", "--silence-skips", "--label-filter=" + o.labels, "--focus=" + o.focus,
		"--output-dir=" + inside + "-report", "--json-report=report.json",
	}
	if o.skip != "" {
		args = append(args, "--skip="+o.skip)
	}
	args = append(args, inside+"/bin/e2e.test", "--",
		"--provider=skeleton", "--kubeconfig=/etc/skiff/skiff.yaml", "--kubectl-path="+inside+"/bin/kubectl",
		"--allowed-not-ready-nodes=0", "--minStartupPods=0", "--dump-logs-on-failure=false", "--disable-log-dump")
	if o.driver != "" {
		description, err := os.ReadFile(o.driver)
		if err != nil {
			p.Fatalf("%v", err)
		}
		h.WriteFile("/etc/storage-driver.yaml", string(description))
		args = append(args, "-storage.testdriver=/etc/storage-driver.yaml")
	}
	p.Logf("running the specs, log in %s", log.Name())
	suite := h.Spawn(hosts.Command{Args: args, Stdout: log, Stderr: log})
	select {
	case <-suite.Exited():
	case <-time.After(o.timeout + 5*time.Minute):
		suite.Signal(syscall.SIGKILL)
	}
	return suite.Wait()
}
