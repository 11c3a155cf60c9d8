package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/test/hosts"
	"skiff/test/images"
)

// listed is an image in the answer of skiff image ls -o json.
type listed struct {
	Name, Digest string
	Size         int64
	Pinned       bool
}

func listImages(t *testing.T, h *hosts.Host) map[string]listed {
	t.Helper()
	var list []listed
	if err := json.Unmarshal([]byte(h.Run("skiff", "image", "ls", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	out := map[string]listed{}
	for _, i := range list {
		out[i.Name] = i
	}
	return out
}

// pinnedByCRI are the images that the kubelet is told to leave alone.
func pinnedByCRI(t *testing.T, h *hosts.Host) []string {
	t.Helper()
	var answer struct {
		Images []struct {
			RepoTags []string
			Pinned   bool
		}
	}
	if err := json.Unmarshal([]byte(h.Run("skiff", "crictl", "images", "-o", "json")), &answer); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, i := range answer.Images {
		if i.Pinned {
			out = append(out, i.RepoTags...)
		}
	}
	return out
}

// archives imports, lists and exports images at the command line.
func archives(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "archives")
	layout := shop(t, "disk.example/one:1", "disk.example/two:1", "disk.example/loose:1")
	for _, name := range []string{"one", "two", "loose"} {
		var b bytes.Buffer
		if err := layout.Archive("disk.example/"+name+":1", &b); err != nil {
			t.Fatal(err)
		}
		h.WriteFile("/tmp/"+name+".tar", b.String())
	}
	contains(t, "import", h.Run("skiff", "image", "import", "/tmp/one.tar"), "disk.example/one:1")
	in, err := os.Open(h.Path("/tmp/two.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if r := h.ExecWith(hosts.Command{Args: []string{"skiff", "image", "import", "-"}, Stdin: in}); r.Code != 0 || !strings.Contains(r.Stdout, "disk.example/two:1") {
		t.Fatalf("import from standard input: %s", r)
	}
	h.Run("skiff", "image", "import", "--pin=false", "/tmp/loose.tar")

	all := listImages(t, h)
	for name, pinned := range map[string]bool{"disk.example/one:1": true, "disk.example/two:1": true, "disk.example/loose:1": false, images.Tool: true} {
		i, ok := all[name]
		if !ok || i.Pinned != pinned || i.Size < 100_000 || !strings.HasPrefix(i.Digest, "sha256:") {
			t.Errorf("image %s is listed as %+v, want it pinned: %v", name, i, pinned)
		}
	}
	contains(t, "the table", h.Run("skiff", "image", "ls"), "NAME", "disk.example/one:1", " MB", "skiff.local/pause:")
	s.eventually("the CRI to know which are pinned", func() error {
		pinned := pinnedByCRI(t, h)
		pause := slices.ContainsFunc(pinned, func(n string) bool { return strings.HasPrefix(n, "skiff.local/pause:") })
		if !pause || !slices.Contains(pinned, "disk.example/one:1") || !slices.Contains(pinned, images.Tool) || slices.Contains(pinned, "disk.example/loose:1") {
			return fmt.Errorf("pinned are %q", pinned)
		}
		return nil
	})

	// There and back: the exported archive is the same image.
	digest := all["disk.example/one:1"].Digest
	contains(t, "export", h.Run("skiff", "image", "export", "disk.example/one:1", "disk.example/two:1", "/tmp/both.tar.zst"), "/tmp/both.tar.zst")
	h.Run("skiff", "ctr", "-n", "k8s.io", "images", "rm", "--sync", "disk.example/one:1", "disk.example/two:1")
	if i, ok := listImages(t, h)["disk.example/one:1"]; ok {
		t.Fatalf("the removed image is listed: %+v", i)
	}
	h.Run("skiff", "image", "import", "/tmp/both.tar.zst")
	if got := listImages(t, h)["disk.example/one:1"].Digest; got != digest {
		t.Errorf("the image came back as %s, was %s", got, digest)
	}
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: one}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "disk.example/one:1", imagePullPolicy: Never}]
`)
	s.ready("app=one", 1)
	contains(t, "the image's content", s.in("one", "cat", "/etc/name"), "disk.example/one")

	h.WriteFile("/tmp/cut.tar", h.ReadFile("/tmp/one.tar")[:70_000])
	oneError(t, h.Exec("skiff", "image", "import", "/tmp/cut.tar"), "/tmp/cut.tar", "incomplete")
	h.WriteFile("/tmp/text.tar", strings.Repeat("no archive\n", 100))
	oneError(t, h.Exec("skiff", "image", "import", "/tmp/text.tar"), "not a tar archive")
	oneError(t, h.Exec("skiff", "image", "export", "nowhere:1", "/tmp/x.tar"), "there is no image nowhere:1", "skiff image ls")
	if left, _ := filepath.Glob(h.Path("/tmp/.skiff-export-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	oneError(t, h.Exec("skiff", "image", "improt"), "did you mean import")
}

// otherRuntime is a runtime that is not skiff's to skiff: no package of one is
// to be had everywhere, and what it is called is all that containerd sees.
const otherRuntime = "#!/bin/sh\nexec /var/lib/skiff/bin/runc \"$@\"\n"

// runtimes runs a pod by another runtime than runc, and looks at Debian's crun
// where the machine has it: that of Debian 12 refuses every container.
func runtimes(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "runtimes")
	class := func(name string) error {
		c, err := s.kube.NodeV1().RuntimeClasses().Get(s.t.Context(), name, metav1.GetOptions{})
		if err == nil && c.Handler != name {
			err = fmt.Errorf("its handler is %s", c.Handler)
		}
		return err
	}
	s.eventually("the RuntimeClass youki", func() error { return class("youki") })
	contains(t, "the node's labels", h.Kubectl("get", "node", "-l", "runtime.skiff.dev/youki=true", "-o", "name"), "node/store")
	s.apply(strings.ReplaceAll(runtimePod, "CLASS", "youki"))
	s.ready("app=youki", 1)
	contains(t, "exec", s.in("youki", "hostname"), "youki")
	if found := h.Run("sh", "-c", "cat /run/skiff/containerd/io.containerd.runtime.v2.task/k8s.io/*/options.json"); !strings.Contains(found, "/usr/local/sbin/youki") {
		t.Errorf("no container was made by youki: %s", found)
	}
	for _, name := range []string{"runc", "nvidia", "spin"} {
		if err := class(name); !apierrors.IsNotFound(err) {
			t.Errorf("there is a RuntimeClass %s: %v", name, err)
		}
	}
	if h.Exec("sh", "-c", "command -v crun").Code != 0 {
		return
	}
	if h.Exec("crun", "features").Code != 0 {
		if err := statusHas(h, "crun is not used as a runtime", "too old"); err != nil {
			t.Error(err)
		}
		if err := class("crun"); !apierrors.IsNotFound(err) {
			t.Errorf("there is a RuntimeClass for a crun that does not work: %v", err)
		}
		return
	}
	s.apply(strings.ReplaceAll(runtimePod, "CLASS", "crun"))
	s.ready("app=crun", 1)
}

const runtimePod = `
apiVersion: v1
kind: Pod
metadata: {name: CLASS, labels: {app: CLASS}}
spec:
  runtimeClassName: CLASS
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: IMAGE, imagePullPolicy: Never, command: [sleep, "86400"]}]
`

// brokenFiles starts skiff with files that make no sense: each is named, and
// what does not depend on it works.
func brokenFiles(t *testing.T, h *hosts.Host) {
	const (
		kubelet    = "/var/lib/skiff/agent/etc/kubelet.conf.d/10-mine.conf"
		containerd = "/var/lib/skiff/agent/etc/containerd/config.toml.d/mine.toml"
		head       = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
	)
	remove := func(file string) {
		if err := os.Remove(h.Path(file)); err != nil {
			t.Fatal(err)
		}
	}
	h.Stop()
	h.WriteFile(kubelet, head+"maxPodz: 5\n")
	if r := h.Exec("skiff", "server"); r.Code == 0 || !strings.Contains(r.Stderr, kubelet) || !strings.Contains(r.Stderr, "maxPodz") {
		t.Errorf("a wrong drop-in of the kubelet: %s", lastLines(r.Stderr))
	}
	h.WriteFile(kubelet, head+"maxPods: 55\nevictionHard: {memory.available: 60Mi}\n")
	h.WriteFile(containerd, "version = 3\n[plugins.\n")
	h.WriteFile(registriesFile, "mirrors: [\n")
	h.StartServer("--disable=runtimes", "--disable=traefik")
	h.WaitReady()
	contains(t, "the log", h.Log(), "--disable traefik: skiff has no traefik; its own part of that kind, ingress, is left out")
	hosts.Eventually(t, patience, "the end of the RuntimeClasses", func() error {
		if left := h.Kubectl("get", "runtimeclass", "-o", "name"); left != "" {
			return errors.New(left)
		}
		return nil
	})
	if err := errors.Join(statusHas(h, "mine.toml", "line 2"), statusHas(h, "registries.yaml")); err != nil {
		t.Error(err)
	}
	contains(t, "pods that fit", h.Kubectl("get", "node", "store", "-o", "jsonpath={.status.allocatable.pods}"), "55")
	remove(containerd)
	remove(registriesFile)
	remove(kubelet)
}

func lastLines(text string) string { return text[max(0, len(text)-2000):] }

// fullDisk makes the kubelet believe that the disk is full. It evicts all pods
// and removes the images that nobody uses, but not those that are pinned.
func fullDisk(t *testing.T, h *hosts.Host) {
	have := func(name string) bool { _, ok := listImages(t, h)[name]; return ok }
	if !have("disk.example/loose:1") || !have("disk.example/two:1") {
		t.Fatal("the images of the scenario are not there")
	}
	h.Stop()
	h.StartServer("--kubelet-arg=eviction-hard=nodefs.available<99%", "--kubelet-arg=minimum-image-ttl-duration=1s", "--kubelet-arg=eviction-pressure-transition-period=1s")
	hosts.Eventually(t, 60*time.Second, "the end of the image that is not pinned", func() error {
		if r := h.Exec("skiff", "image", "ls"); r.Code != 0 || strings.Contains(r.Stdout, "disk.example/loose:1") {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	hosts.Eventually(t, patience, "the RuntimeClass, now that it is not disabled", func() error {
		if r := h.Exec("skiff", "kubectl", "get", "runtimeclass", "youki"); r.Code != 0 {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	pinned := pinnedByCRI(t, h)
	for _, name := range []string{"disk.example/two:1", images.Tool} {
		if !have(name) || !slices.Contains(pinned, name) {
			t.Errorf("%s is gone or not pinned any more; pinned are %q", name, pinned)
		}
	}
}
