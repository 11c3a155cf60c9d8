package kubelet

import (
	"path/filepath"
	"strconv"
	"strings"

	utilsysctl "k8s.io/component-helpers/node/util/sysctl"
	"k8s.io/kubernetes/cmd/kubelet/app/options"

	"skiff/pkg/hostchange"
)

// recordChanges writes down what upstream's kubelet will change on the machine
// without asking.
//
// Source: k8s.io/kubernetes, pkg/kubelet/cm/container_manager_linux.go
// (setupKernelTunables) and qos_container_manager_linux.go.
func (k *Kubelet) recordChanges(s *options.KubeletServer) error {
	for name, value := range map[string]int{
		utilsysctl.VMOvercommitMemory: utilsysctl.VMOvercommitMemoryAlways,
		utilsysctl.VMPanicOnOOM:       utilsysctl.VMPanicOnOOMInvokeOOMKiller,
		utilsysctl.KernelPanic:        utilsysctl.KernelPanicRebootTimeout,
		utilsysctl.KernelPanicOnOops:  utilsysctl.KernelPanicOnOopsAlways,
		utilsysctl.RootMaxKeys:        utilsysctl.RootMaxKeysSetting,
		utilsysctl.RootMaxBytes:       utilsysctl.RootMaxBytesSetting,
	} {
		if s.ProtectKernelDefaults {
			break
		}
		if err := k.Changes.RecordSysctl(strings.ReplaceAll(name, "/", "."), strconv.Itoa(value)); err != nil {
			return err
		}
	}
	if !s.CgroupsPerQOS {
		return nil
	}
	group := filepath.Join("/", s.CgroupRoot, "kubepods")
	if s.CgroupDriver == "systemd" {
		group += ".slice"
	}
	return k.Changes.Record(hostchange.Change{Kind: hostchange.Cgroup, Value: group})
}
