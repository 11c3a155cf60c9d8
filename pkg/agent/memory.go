package agent

import (
	"os"
	"strconv"
	"strings"
)

// machineMemory is the memory of this machine in bytes by the kernel's file,
// or 0 where that does not say.
func machineMemory(meminfo string) uint64 {
	data, err := os.ReadFile(meminfo)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "MemTotal:" && f[2] == "kB" {
			n, err := strconv.ParseUint(f[1], 10, 54)
			if err != nil {
				return 0
			}
			return n << 10
		}
	}
	return 0
}
