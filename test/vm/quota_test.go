package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skiff/test/images"
)

// limited is a claim of 16 MiB and a pod that is root in it.
const limited = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: small}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: data, persistentVolumeClaim: {claimName: small}}]
  containers:
  - name: c
    image: ` + images.Tool + `
    command: [sleep, "86400"]
    volumeMounts: [{name: data, mountPath: /data}]
`

// The unit tests of pkg/agent/storage, on a kernel that has project quotas for
// ext4 and xfs: those of containers and of CI often have not.
func TestQuotaUnit(t *testing.T) {
	base, dir := needBase(t), t.TempDir()
	program, xfs := filepath.Join(dir, "storage.test"), filepath.Join(dir, "xfs.image")
	build := exec.Command("go", "test", "-c", "-o", program, "./pkg/agent/storage")
	build.Dir, build.Stderr = "../..", os.Stderr
	if err := build.Run(); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"storage.test": program}
	if err := command("mkfs.xfs", "-q", "-f", "-d", "file,size=320m,name="+xfs); err != nil {
		t.Logf("not tried with xfs; install the Debian package xfsprogs: %v", err)
	} else {
		files["xfs.image"] = xfs
	}
	m := New(t, Options{Base: base, Files: files})
	m.Boot()
	out := m.Run("cd /tmp && SKIFF_TEST_IMAGES=/opt/vm /opt/vm/storage.test -test.v -test.run Quota")
	t.Log(out)
	for kind, want := range map[string]bool{"ext4": true, "xfs": files["xfs.image"] != ""} {
		if want && !strings.Contains(out, "--- PASS: TestQuota/"+kind+" ") {
			t.Errorf("the quota of %s was not tried", kind)
		}
	}
}

// Volumes of StorageClass local-path on a file system with project quotas,
// which the kernels of containers and CI often lack: full is full for the pod,
// and not for the node, also after the power was cut.
func TestVolumeQuota(t *testing.T) {
	m := newMachine(t, false)
	m.Run(`set -e
		truncate -s 512M /volumes.ext4
		mkfs.ext4 -q -O quota,project -E quotatype=prjquota /volumes.ext4
		mkdir -p /var/lib/skiff/storage
		echo '/volumes.ext4 /var/lib/skiff/storage ext4 loop,prjquota 0 0' >>/etc/fstab
		mount /var/lib/skiff/storage
		sync`)
	install(m)
	// A translated machine that has just booted may be too busy to answer.
	m.Eventually(5*time.Minute, "the objects", "skiff kubectl apply -f - <<'EOF'"+limited+"EOF")
	m.kubectl("wait --for=condition=Ready --timeout=300s pod/writer")
	if got := m.kubectl("get events --field-selector reason=CapacityNotEnforced"); got != "" {
		t.Errorf("capacity is not enforced: %s", got)
	}
	fill(m, "one", 12, true)
	fill(m, "two", 12, false)
	m.Run("touch /var/lib/skiff/storage/room; rm /var/lib/skiff/storage/room")

	m.kubectl(`patch pvc small -p '{"spec":{"resources":{"requests":{"storage":"64Mi"}}}}'`)
	m.Eventually(2*time.Minute, "64 MiB", `test "$(skiff kubectl get pvc small -o jsonpath='{.status.capacity.storage}')" = 64Mi`)
	fill(m, "three", 24, true)

	// The kernel keeps its quota files with the journal, so no power cut makes
	// a volume larger.
	m.Run("sync")
	before := m.containers()
	m.CutPower()
	m.Boot()
	m.waitActive()
	m.waitNewContainers(before)
	fill(m, "four", 64, false)
	m.kubectl("delete pod/writer pvc/small --wait")
	m.Eventually(2*time.Minute, "removal", `test -z "$(ls /var/lib/skiff/storage | grep pvc-)" && test -z "$(skiff kubectl get pv -o name)"`)
	checkJournal(m)
}

// fill writes a file into the volume, which must do or end with the quota.
func fill(m *Machine, name string, mib int, fits bool) {
	m.t.Helper()
	r := m.Try(fmt.Sprintf("skiff kubectl exec writer -- dd if=/dev/zero of=/data/%s bs=1M count=%d conv=fsync", name, mib))
	switch {
	case fits && r.Code != 0:
		m.t.Errorf("%d MiB in file %s: %s", mib, name, r)
	case !fits && (r.Code == 0 || !strings.Contains(r.Stderr, "Disk quota exceeded")):
		m.t.Errorf("%d MiB in file %s are over the limit: %s", mib, name, r)
	}
}
