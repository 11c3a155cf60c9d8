package vm

import (
	"fmt"
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
	m.apply(limited)
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
