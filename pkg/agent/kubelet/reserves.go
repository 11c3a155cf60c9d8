package kubelet

import (
	"fmt"

	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
)

const mebibyte = 1 << 20

// What skiff itself needs at rest (docs/bench), containerd and a few shims
// included. docs/adr has the reasoning behind the figures here.
const (
	serverNeeds = 320 * mebibyte
	nodeNeeds   = 128 * mebibyte
	// needsPerMemory of the machine is for what grows with its pods: shims,
	// watches, logs, the kernel.
	needsPerMemory = 0.02
	// mostNeeds and mostShare bound both together.
	mostNeeds = 1024 * mebibyte
	mostShare = 0.4
)

// When pods are evicted for memory: between these, a part of the machine's.
const (
	leastFree = 50 * mebibyte
	mostFree  = 100 * mebibyte
	freeShare = 0.025
)

// setReserves says what pods may not have. Without it the first pod that leaks
// takes skiff with it, and the kernel chooses whom to kill.
func (k *Kubelet) setReserves(c *kubeletconfig.KubeletConfiguration) {
	memory := float64(k.Memory)
	// Percentages made for data centres starve small disks.
	c.EvictionHard = map[string]string{
		"memory.available":  mebibytes(min(max(memory*freeShare, leastFree), mostFree)),
		"nodefs.available":  "5%",
		"nodefs.inodesFree": "5%",
		"imagefs.available": "5%",
	}
	c.EvictionMinimumReclaim = map[string]string{
		"nodefs.available":  "5%",
		"imagefs.available": "5%",
	}
	if k.Memory == 0 {
		return // A reserve of a size that is not known would be a guess.
	}
	needs := float64(nodeNeeds)
	if k.ControlPlane {
		needs = serverNeeds
	}
	c.SystemReserved = map[string]string{
		"memory": mebibytes(min(needs+memory*needsPerMemory, mostNeeds, memory*mostShare)),
	}
}

func mebibytes(n float64) string { return fmt.Sprintf("%dMi", int64(n)/mebibyte) }
