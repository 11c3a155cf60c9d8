package services_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"skiff/manifests"
	"skiff/pkg/deploy"
)

var addons = schema.GroupVersionResource{Group: "skiff.dev", Version: "v1", Resource: "addons"}

func configMap(name, value, annotations string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, annotations: {%s}}\ndata: {value: %q}\n---\n", name, annotations, value)
}

// deployer is a Deployer under test with its directory.
type deployer struct {
	*cluster
	t     *testing.T
	dir   string
	notes *notes
	off   atomic.Value // string: the one disabled name
	stop  func()
}

func (d *deployer) start() {
	d.t.Helper()
	d.stop = start(d.t, deploy.New(deploy.Options{
		Config:   func(context.Context) (*rest.Config, error) { return d.config, nil },
		Dir:      d.dir,
		Bundled:  manifests.FS,
		Disabled: func(name string) bool { return d.off.Load() == name },
		Vars: map[string]string{
			"CLUSTER_DNS": "10.43.0.10", "CLUSTER_DNS_LIST": `"10.43.0.10"`, "CLUSTER_DNS_IPFAMILYPOLICY": "SingleStack", "CLUSTER_DOMAIN": "cluster.local",
		},
		AddOns: d.notes.setAddOns, Notes: d.notes,
		Logger: d.logger.With("component", "deploy"),
	}))
}

func (d *deployer) write(name, text string) {
	d.t.Helper()
	p := filepath.Join(d.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

func (d *deployer) rm(name string) {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.dir, name)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *deployer) value(name, want string) {
	d.t.Helper()
	eventually(d.t, "ConfigMap "+name+" = "+want, func() error {
		m, err := d.kube.CoreV1().ConfigMaps("default").Get(d.t.Context(), name, get)
		if err == nil && m.Data["value"] != want {
			err = fmt.Errorf("value is %q", m.Data["value"])
		}
		return err
	})
}

func (d *deployer) gone(name string) {
	d.t.Helper()
	eventually(d.t, "end of ConfigMap "+name, func() error {
		_, err := d.kube.CoreV1().ConfigMaps("default").Get(d.t.Context(), name, get)
		return wantGone(err)
	})
}

func wantGone(err error) error {
	if err == nil {
		return errors.New("it is there")
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// state waits for the beginning of what `skiff status` says of a manifest.
func (d *deployer) state(name, want string) {
	d.t.Helper()
	eventually(d.t, name+" "+want, func() error {
		if got := d.notes.addOn(name); !strings.HasPrefix(got, want) {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

// atOnce waits for the first word on an AddOn, which has to be that it works.
func (d *deployer) atOnce(name string) {
	d.t.Helper()
	eventually(d.t, "first word on AddOn "+name, func() error {
		state := d.notes.addOn(name)
		if state == "" {
			return errors.New("none")
		}
		if !strings.HasPrefix(state, "applied") {
			d.t.Fatalf("the first attempt: %s", state)
		}
		return nil
	})
}

// addOn waits for an AddOn that fits.
func (d *deployer) addOn(name string, fits func(a *unstructured.Unstructured) error) {
	d.t.Helper()
	eventually(d.t, "AddOn "+name, func() error {
		a, err := d.dynamic.Resource(addons).Namespace("kube-system").Get(d.t.Context(), name, get)
		if err != nil {
			return err
		}
		return fits(a)
	})
}

func objects(a *unstructured.Unstructured) string {
	list, _, _ := unstructured.NestedSlice(a.Object, "status", "objects")
	var names []string
	for _, o := range list {
		names = append(names, fmt.Sprint(o.(map[string]any)["name"]))
	}
	return strings.Join(names, " ")
}

func (d *deployer) addOnHas(name, want string) {
	d.t.Helper()
	d.addOn(name, func(a *unstructured.Unstructured) error {
		if got := objects(a); got != want {
			return fmt.Errorf("its objects are %q", got)
		}
		return nil
	})
}

func (c *cluster) testDeploy(t *testing.T) {
	d := &deployer{cluster: c, t: t, dir: filepath.Join(c.dir, "manifests"), notes: &notes{}}
	d.off.Store("")
	d.start()
	svc, err := c.kube.CoreV1().Services("kube-system").Get(t.Context(), "kube-dns", get)
	if err != nil || svc.Spec.ClusterIP != "10.43.0.10" || *svc.Spec.InternalTrafficPolicy != corev1.ServiceInternalTrafficPolicyLocal {
		t.Fatalf("bundled Service: %v, %v", svc.Spec, err)
	}

	t.Run("add, change, remove", func(t *testing.T) {
		d.write("two.yaml", configMap("one", "1", "")+configMap("two", "1", ""))
		d.write("deep/er/three.json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"three"},"data":{"value":"1"}}`)
		d.value("one", "1")
		d.value("two", "1")
		d.value("three", "1")
		d.addOnHas("two", "one two")
		d.addOnHas("deep.er.three", "three")
		d.write("two.yaml", configMap("one", "2", "")+"# two is gone\n")
		d.value("one", "2")
		d.gone("two")
		d.addOnHas("two", "one")
	})
	t.Run("broken", func(t *testing.T) {
		d.write("broken.yaml", configMap("half", "1", "")+"kind: ConfigMap\n  bad: [indent")
		d.write("good.yml", configMap("good", "1", ""))
		d.value("good", "1")
		eventually(t, "note", func() error {
			if n := d.notes.get("manifest/broken"); !strings.Contains(n, "broken.yaml") {
				return fmt.Errorf("note is %q", n)
			}
			return nil
		})
		eventually(t, "event", func() error {
			l, err := c.kube.CoreV1().Events("kube-system").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return err
			}
			for _, e := range l.Items {
				if e.InvolvedObject.Kind == "AddOn" && e.InvolvedObject.Name == "broken" && e.Type == "Warning" {
					return nil
				}
			}
			return fmt.Errorf("%d other events", len(l.Items))
		})
		d.gone("half")
		d.state("broken", "failed not tried again")
		d.state("good", "applied")
		// A file that worked and is broken now keeps its objects.
		d.write("good.yml", "][")
		eventually(t, "note", func() error {
			if d.notes.get("manifest/good") == "" {
				return errors.New("none")
			}
			return nil
		})
		d.value("good", "1")
		d.rm("broken.yaml")
		d.write("good.yml", configMap("good", "2", ""))
		d.value("good", "2")
		eventually(t, "end of notes", func() error {
			if n := d.notes.get("manifest/broken") + d.notes.get("manifest/good"); n != "" {
				return errors.New(n)
			}
			return nil
		})
	})
	t.Run("new kind", func(t *testing.T) {
		d.write("a-object.yaml", "apiVersion: test.skiff.dev/v1\nkind: Boat\nmetadata: {name: b}\nspec: {oars: 2}\n")
		eventually(t, "note", func() error {
			if d.notes.get("manifest/a-object") == "" {
				return errors.New("none")
			}
			return nil
		})
		d.write("z-kind.yaml", boatCRD)
		eventually(t, "Boat", func() error {
			_, err := c.dynamic.Resource(schema.GroupVersionResource{Group: "test.skiff.dev", Version: "v1", Resource: "boats"}).Namespace("default").Get(t.Context(), "b", get)
			return err
		})
		eventually(t, "end of the note", func() error {
			if n := d.notes.get("manifest/a-object"); n != "" {
				return errors.New(n)
			}
			return nil
		})
		d.rm("a-object.yaml")
		d.rm("z-kind.yaml")
	})
	t.Run("kind and object in one file", func(t *testing.T) {
		object := "---\napiVersion: two.skiff.dev/v1\nkind: Boat\nmetadata: {name: b}\nspec: {oars: 2}\n"
		d.write("both.yaml", object+"---\n"+strings.ReplaceAll(boatCRD, "test.skiff.dev", "two.skiff.dev"))
		d.atOnce("both")
		d.rm("both.yaml")
		d.write("space.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: late}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: late}\n")
		d.atOnce("space")
		d.rm("space.yaml")
	})
	t.Run("definition in use", d.definitionInUse)
	t.Run("edited in the cluster", d.edited)
	t.Run("skip", func(t *testing.T) {
		d.write("five.yaml.skip", "")
		d.write("five.yaml", configMap("five", "1", ""))
		d.write("two.yaml.skip", "")
		d.write("two.yaml", configMap("one", "3", ""))
		d.write("six.yaml", configMap("six", "1", ""))
		d.value("six", "1")
		d.gone("five")
		d.state("five", "skipped")
		d.value("one", "2")
		d.rm("two.yaml.skip")
		d.value("one", "3")
	})
	t.Run("restore", func(t *testing.T) {
		eventually(t, "Service that comes back", func() error {
			now, err := c.kube.CoreV1().Services("kube-system").Get(t.Context(), "kube-dns", get)
			if err != nil {
				return err
			}
			if now.UID == svc.UID {
				err := c.kube.CoreV1().Services("kube-system").Delete(t.Context(), "kube-dns", remove)
				return errors.Join(errors.New("it has only been deleted"), err)
			}
			return nil
		})
	})
	t.Run("directory replaced", func(t *testing.T) {
		if err := os.Rename(d.dir, d.dir+".old"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "note", func() error {
			if d.notes.get("manifests") == "" {
				return errors.New("none")
			}
			return nil
		})
		d.value("six", "1")
		if err := os.Rename(d.dir+".old", d.dir); err != nil {
			t.Fatal(err)
		}
		d.write("six.yaml", configMap("six", "2", ""))
		d.value("six", "2")
	})
	t.Run("changed while stopped", func(t *testing.T) {
		d.write("keep.yaml", configMap("keep", "1", `deploy.skiff.dev/prune: "disabled"`)+configMap("drop", "1", ""))
		d.addOnHas("keep", "keep drop")
		d.addOnHas("six", "six")
		d.stop()
		d.rm("keep.yaml")
		d.write("six.yaml", configMap("seven", "1", ""))
		d.off.Store("coredns")
		d.start()
		d.value("seven", "1")
		d.gone("six")
		d.gone("drop")
		d.state("coredns", "disabled")
		d.value("keep", "1")
		eventually(t, "end of the disabled Service", func() error {
			_, err := c.kube.CoreV1().Services("kube-system").Get(t.Context(), "kube-dns", get)
			return wantGone(err)
		})
		eventually(t, "end of its AddOn", func() error {
			_, err := c.dynamic.Resource(addons).Namespace("kube-system").Get(t.Context(), "coredns", get)
			return wantGone(err)
		})
		d.stop()
		d.off.Store("")
		d.start()
	})
}

const boatCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.test.skiff.dev}
spec:
  group: test.skiff.dev
  scope: Namespaced
  names: {kind: Boat, plural: boats, singular: boat, listKind: BoatList}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {oars: {type: integer}}}}}}
`
