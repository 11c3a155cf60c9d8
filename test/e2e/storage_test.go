package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"skiff/test/hosts"
)

// shelf is two claims, the second of a class that keeps its data, and a pod
// that writes to both and is not root.
const shelf = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: kept}
provisioner: skiff.dev/local-path
reclaimPolicy: Retain
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: kept}
spec: {accessModes: [ReadWriteOncePod], storageClassName: kept, resources: {requests: {storage: 1Gi}}}
`

// shelfPod is a pod of user 1000 that mounts claims.
func shelfPod(name string, claims ...string) string {
	var mounts, volumes strings.Builder
	for _, c := range claims {
		fmt.Fprintf(&mounts, "    - {name: %s, mountPath: /%s}\n", c, c)
		fmt.Fprintf(&volumes, "  - {name: %s, persistentVolumeClaim: {claimName: %s}}\n", c, c)
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 1000, runAsGroup: 1000, runAsNonRoot: true}
  containers:
  - name: c
    image: IMAGE
    imagePullPolicy: Never
    command: [sleep, "86400"]
    volumeMounts:
%[2]s  volumes:
%[3]s`, name, mounts.String(), volumes.String())
}

// TestLocalStorage uses volumes of StorageClass local-path: made for the first
// pod, kept over restarts of the pod and of skiff, grown, and removed with the
// claim or kept, as the class says.
func TestLocalStorage(t *testing.T) {
	t.Parallel()
	h := newHost(t, hosts.Named("disk"))
	h.StartServer()
	h.WaitReady()
	s := newSpace(t, h, "storage")
	s.apply(shelf)
	s.event("data", "WaitForFirstConsumer", "waiting for first consumer")
	s.apply(shelfPod("writer", "data", "kept"))
	s.ready("app=writer", 1)
	data, kept := s.directory("data"), s.directory("kept")
	if want := "_storage_data"; !strings.HasPrefix(data, "/var/lib/skiff/storage/pvc-") || !strings.HasSuffix(data, want) {
		t.Errorf("the volume's directory is %s", data)
	}
	s.in("writer", "sh", "-c", "echo precious >/data/file; echo precious >/kept/file; mkdir /data/sub")
	contains(t, "the data on the node", h.ReadFile(data+"/file")+h.ReadFile(kept+"/file"), "precious\nprecious\n")
	if info, err := os.Stat(h.Path("/var/lib/skiff/storage")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the mode of the volumes' directory is %v, %v", info.Mode(), err)
	}
	// The test's disk keeps no project to its limit; if ever it does, there is
	// nothing to tell.
	s.event("data", "CapacityNotEnforced", "/var/lib/skiff/storage is on ")

	s.refusals()
	s.growClaim("data", "3Gi")

	// skiff dies, the pod is replaced: what was written stays.
	before := s.containerIDs()
	h.Kill9()
	h.Start()
	h.WaitReady()
	s.sameContainers("kill -9", before)
	s.kubectl("delete", "pod", "writer", "--wait")
	s.apply(shelfPod("reader", "data", "kept"))
	s.ready("app=reader", 1)
	contains(t, "the data after all that", s.in("reader", "cat", "/data/file", "/kept/file"), "precious\nprecious\n")
	s.kubectl("delete", "pod", "reader", "--wait")

	// Retained is retained, deleted is deleted, and both without the other.
	volume := s.kubectl("get", "pvc", "kept", "-o", "jsonpath={.spec.volumeName}")
	s.kubectl("delete", "pvc", "kept", "--wait")
	s.phase(volume, "Released")
	s.kubectl("delete", "pvc", "data", "--wait")
	s.gone(data)
	contains(t, "retained data", h.ReadFile(kept+"/file"), "precious")
	s.kubectl("delete", "pv", volume, "--wait")
	contains(t, "data of a volume that was deleted although it was to be retained", h.ReadFile(kept+"/file"), "precious")
	s.withoutStorage()
}

// withoutStorage leaves local storage out for a while: volumes stay, new ones
// wait.
func (s *space) withoutStorage() {
	s.t.Helper()
	claim := strings.NewReplacer("{name: data}", "{name: NAME}").Replace(shelf[strings.Index(shelf, "apiVersion: v1"):strings.LastIndex(shelf, "---")])
	s.apply(strings.ReplaceAll(claim, "NAME", "old"))
	s.apply(shelfPod("old", "old"))
	s.ready("app=old", 1)
	s.in("old", "sh", "-c", "echo still here >/old/file")
	dir := s.directory("old")
	s.kubectl("delete", "pod", "old", "--wait")

	s.Stop()
	s.StartServer("--disable", "local-storage")
	s.WaitReady()
	s.eventually("the class to be gone", func() error {
		if r := s.Exec("skiff", "kubectl", "get", "storageclass", "local-path"); r.Code == 0 {
			return fmt.Errorf("there is %s", r.Stdout)
		}
		return nil
	})
	s.apply(shelfPod("old", "old"))
	s.ready("app=old", 1)
	contains(s.t, "a volume without its provisioner", s.in("old", "cat", "/old/file"), "still here")
	s.kubectl("delete", "pod", "old", "--wait")
	volume := s.kubectl("get", "pvc", "old", "-o", "jsonpath={.spec.volumeName}")
	s.kubectl("delete", "pvc", "old", "--wait")
	s.phase(volume, "Released")
	contains(s.t, "a volume that nobody removes", s.ReadFile(dir+"/file"), "still here")
	s.apply(strings.ReplaceAll(claim, "NAME", "late"))

	s.Stop()
	s.StartServer()
	s.WaitReady()
	s.gone(dir)
	s.apply(shelfPod("late", "late"))
	s.ready("app=late", 1)
	s.in("late", "sh", "-c", "echo new >/late/file")
}

// refusals asks for what a directory cannot be.
func (s *space) refusals() {
	s.t.Helper()
	for name, claim := range map[string]struct{ spec, why string }{
		"shared": {"accessModes: [ReadWriteMany]", "access mode ReadWriteMany is not possible"},
		"device": {"accessModes: [ReadWriteOnce], volumeMode: Block", "volume mode Block is not possible"},
		"copy":   {"accessModes: [ReadWriteOnce], dataSource: {kind: PersistentVolumeClaim, name: data}", "a data source is not possible"},
	} {
		s.apply(fmt.Sprintf("\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: %s}\nspec: {%s, resources: {requests: {storage: 1Gi}}}\n", name, claim.spec))
		pod := shelfPod(name, name)
		if name == "device" {
			pod = strings.NewReplacer("volumeMounts", "volumeDevices", "mountPath", "devicePath").Replace(pod)
		}
		s.apply(pod)
		s.event(name, "ProvisioningFailed", claim.why)
		s.kubectl("delete", "pod,pvc", name, "--wait=false")
	}
}

// growClaim asks for more, and waits until claim and volume have it.
func (s *space) growClaim(claim, size string) {
	s.t.Helper()
	s.kubectl("patch", "pvc", claim, "-p", `{"spec":{"resources":{"requests":{"storage":"`+size+`"}}}}`)
	s.eventually("claim "+claim+" of "+size, func() error {
		var c struct {
			Spec   struct{ VolumeName string }
			Status struct {
				Capacity, AllocatedResources, AllocatedResourceStatuses map[string]string
				Conditions                                              []any
			}
		}
		if err := json.Unmarshal([]byte(s.kubectl("get", "pvc", claim, "-o", "json")), &c); err != nil {
			return err
		}
		volume := s.kubectl("get", "pv", c.Spec.VolumeName, "-o", "jsonpath={.spec.capacity.storage}")
		if c.Status.Capacity["storage"] != size || volume != size || len(c.Status.Conditions) > 0 || len(c.Status.AllocatedResourceStatuses) > 0 {
			return fmt.Errorf("the volume has %s, the claim's status is %+v", volume, c.Status)
		}
		return nil
	})
	s.event(claim, "VolumeResizeSuccessful", "is "+size+" now")
}

// event waits for an event of the claim.
func (s *space) event(claim, reason, text string) {
	s.t.Helper()
	s.eventually("event "+reason+" of claim "+claim, func() error {
		out := s.kubectl("get", "events", "--field-selector", "involvedObject.kind=PersistentVolumeClaim,involvedObject.name="+claim)
		for line := range strings.Lines(out) {
			if strings.Contains(line, " "+reason+" ") && strings.Contains(line, text) {
				return nil
			}
		}
		return fmt.Errorf("want %q among\n%s", text, out)
	})
}

// directory is where the node has a claim's data.
func (s *space) directory(claim string) string {
	s.t.Helper()
	return s.kubectl("get", "pv", s.kubectl("get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}"), "-o", "jsonpath={.spec.local.path}")
}

func (s *space) phase(volume, want string) {
	s.t.Helper()
	s.eventually("volume "+volume+" to be "+want, func() error {
		if got := s.kubectl("get", "pv", volume, "-o", "jsonpath={.status.phase}"); got != want {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
}

// gone waits until a volume's directory is not on the node, nor its object in
// the API.
func (s *space) gone(dir string) {
	s.t.Helper()
	s.eventually("removal of "+dir, func() error {
		if _, err := os.Lstat(s.Path(dir)); !os.IsNotExist(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		if out := s.kubectl("get", "pv", "-o", "jsonpath={.items[*].spec.local.path}"); strings.Contains(out, dir) {
			return fmt.Errorf("the volume is there")
		}
		return nil
	})
}
