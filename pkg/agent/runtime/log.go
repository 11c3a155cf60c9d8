package runtime

import (
	"log/slog"
	"strings"

	"skiff/pkg/log"
)

// parseLog turns a line of containerd's log into a record.
func parseLog(line string) (slog.Level, string, []slog.Attr) {
	level, message, attrs := log.ParseLogfmt(line)
	if message != line && noise(message) {
		level = slog.LevelDebug
	}
	return level, message, attrs
}

// noise reports messages that containerd logs at every start and for every
// container, and that say nothing a person would want in a
// year's journal.
func noise(message string) bool {
	for _, prefix := range []string{
		"loading plugin", "skip loading plugin", "starting cri plugin", "Start ", "RunPodSandbox", "StopPodSandbox",
		"CreateContainer", "StartContainer", "RemoveContainer", "StopContainer", "connecting to shim", "shim disconnected",
		"cleaning up", "received exit event", "TaskExit event", "serving...", "runtime interface starting",
		"starting plugins...", "Registering", "Container to stop", "No cni config template", "TearDown network",
		"Remove", "Ensure that sandbox", "Stop CRI", "Event monitor", "Stream server", "Connect containerd",
		"Get image filesystem path", "NRI service", "metadata content store", "Pull", "stop pulling", "Image",
		// Of no consequence: the format of drop-ins, hashes kept by the file
		// system, and a network that comes later.
		"Configuration migrated", "failed check for fsverity", "failed to load cni during init",
		"failed to reload cni configuration",
		"Forcibly stopping", "ImageCreate event", "ImageUpdate event", "received sandbox", "received container",
	} {
		if strings.HasPrefix(message, prefix) {
			return true
		}
	}
	return false
}
