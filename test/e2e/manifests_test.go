package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/test/hosts"
	"skiff/test/images"
)

const manifestsDir = "/var/lib/skiff/server/manifests"

// manifests drops files into the manifests directory, changes and removes them.
func manifests(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "dropped")
	configMap := func(name, value string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: dropped}\ndata: {value: %q}\n---\n", name, value)
	}
	value := func(name, want string) {
		t.Helper()
		s.eventually("ConfigMap "+name+" with value "+want, func() error {
			m, err := s.kube.CoreV1().ConfigMaps(s.ns).Get(s.t.Context(), name, metav1.GetOptions{})
			if err == nil && m.Data["value"] != want {
				err = fmt.Errorf("value is %q", m.Data["value"])
			}
			return err
		})
	}
	gone := func(name string) {
		t.Helper()
		s.eventually("the end of ConfigMap "+name, func() error {
			_, err := s.kube.CoreV1().ConfigMaps(s.ns).Get(s.t.Context(), name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return errors.Join(errors.New("it is there"), err)
		})
	}

	h.WriteFile(manifestsDir+"/two.yaml", configMap("one", "1")+configMap("two", "1"))
	h.WriteFile(manifestsDir+"/deep/er/three.json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"three","namespace":"dropped"},"data":{"value":"1"}}`)
	value("one", "1")
	value("two", "1")
	value("three", "1")
	s.eventually("an AddOn object", func() error {
		r := h.Exec("skiff", "kubectl", "get", "addons", "-A")
		if r.Code != 0 || !strings.Contains(r.Stdout, "two") {
			return fmt.Errorf("%s", r)
		}
		return nil
	})

	// Changed: one object other, one gone. Then a broken file beside a good one.
	h.WriteFile(manifestsDir+"/two.yaml", configMap("one", "2"))
	value("one", "2")
	gone("two")
	h.WriteFile(manifestsDir+"/broken.yaml", "kind: ConfigMap\n  bad: [indent")
	h.WriteFile(manifestsDir+"/four.yml", configMap("four", "1"))
	value("four", "1")
	s.eventually("the broken file in skiff status", func() error {
		if r := h.Status(); !strings.Contains(r.Stdout+r.Stderr, "broken.yaml") {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	s.eventually("an event about the broken file", func() error {
		if out := h.Kubectl("get", "events", "-A"); !strings.Contains(out, "broken") {
			return errors.New(out)
		}
		return nil
	})

	// A skipped file is not applied; what it had applied before stays.
	h.WriteFile(manifestsDir+"/five.yaml.skip", "")
	h.WriteFile(manifestsDir+"/five.yaml", configMap("five", "1"))
	for _, file := range []string{"two.yaml", "deep/er/three.json", "broken.yaml"} {
		if err := os.Remove(filepath.Join(h.Path(manifestsDir), file)); err != nil {
			t.Fatal(err)
		}
	}
	gone("one")
	gone("three")
	s.eventually("skiff status without the broken file", func() error {
		if r := h.Status(); strings.Contains(r.Stdout+r.Stderr, "broken.yaml") {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	gone("five")
	value("four", "1")
}

// droppedImages drops a compressed archive into the images directory of a
// running node and starts a pod from it.
func droppedImages(t *testing.T, h *hosts.Host) {
	s := newSpace(t, h, "images")
	const ref = "skiff.test/late:2"
	layers, err := images.Busybox("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	layout := images.Layout{Dir: t.TempDir()}
	if err := layout.Add(images.Image{Ref: ref, Layers: layers, Cmd: []string{"sleep", "86400"}}); err != nil {
		t.Fatal(err)
	}
	var packed strings.Builder
	z, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(layout.Archive(ref, z), z.Close()); err != nil {
		t.Fatal(err)
	}
	h.WriteFile(imagesDir+"/late.tar.zst", packed.String())
	s.eventually("the image in the runtime", func() error {
		if out := h.Run("skiff", "crictl", "images"); !strings.Contains(out, "skiff.test/late") {
			return errors.New(out)
		}
		return nil
	})
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: late, labels: {app: late}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "skiff.test/late:2", imagePullPolicy: Never}]
`)
	s.ready("app=late", 1)
	contains(t, "crictl ps", h.Run("skiff", "crictl", "ps"), "late")
	contains(t, "ctr images", h.Run("skiff", "ctr", "-n", "k8s.io", "images", "ls", "-q"), "skiff.test/late:2", images.Tool)
}

// secondServer starts skiff twice on one data directory.
func secondServer(t *testing.T, h *hosts.Host) {
	begin := time.Now()
	oneError(t, h.Exec("skiff", "server", "--https-listen-port=7443"), "/var/lib/skiff")
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the second server took %s to give up", took)
	}
	if r := h.Status(); r.Code != 0 {
		t.Errorf("the first server has suffered: %s", r)
	}
}
