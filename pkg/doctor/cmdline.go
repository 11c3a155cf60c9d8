package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"skiff/internal/atomicfile"
	"skiff/pkg/hostchange"
	"skiff/pkg/paths"
)

// What a Raspberry Pi's kernel must be told; its firmware switches the memory
// controller off.
func memoryWords() []string { return []string{"cgroup_memory=1", "cgroup_enable=memory"} }

func lookCgroupMemory(_ context.Context, x *exam) error {
	missing, mounted := x.MissingControllers()
	if !mounted || !slices.Contains(missing, "memory") {
		return nil
	}
	const problem = "the memory controller of the cgroups is not there"
	for _, file := range paths.PiCmdline() {
		text, err := os.ReadFile(x.Path(file))
		if err != nil {
			continue
		}
		line, changed := cmdlineWithMemory(string(text))
		if !changed {
			x.found(Error, fmt.Sprintf("%s, though %s asks for it", problem, file), "reboot the board; if it is still so afterwards, the board reads another file", nil)
			return nil
		}
		how := "add \" " + strings.Join(memoryWords(), " ") + "\" to the end of the one line in " + file + ", not below it, and reboot"
		if n := len(lines(string(text))); n > 1 {
			how = fmt.Sprintf("%s has %d lines, and only the first counts: %s", file, n, how)
		}
		if !x.sys.root {
			x.found(Error, problem, how, nil)
			return nil
		}
		x.found(Error, problem, how, func(context.Context) (string, error) { return x.fixCmdline(file, text, line) })
		return nil
	}
	mend := "add cgroup_enable=memory to the kernel's command line and reboot (GRUB: GRUB_CMDLINE_LINUX in " + paths.GrubDefaults +
		", then update-grub); in a container, give it a cgroup namespace of its own"
	if words := strings.Fields(x.Read("/proc/cmdline")); slices.ContainsFunc(words, disablesMemory) {
		mend = "take cgroup_disable=memory from the kernel's command line, which the boot loader sets, and reboot"
	}
	x.found(Error, problem, mend, nil)
	return nil
}

func lines(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(strings.Trim(line, "\x00\r\n")); line != "" {
			out = append(out, line)
		}
	}
	return out
}

func disablesMemory(word string) bool {
	return strings.HasPrefix(word, "cgroup_disable=") && slices.Contains(strings.Split(strings.TrimPrefix(word, "cgroup_disable="), ","), "memory")
}

// cmdlineWithMemory is the content that a cmdline.txt should have: exactly one
// line, since the firmware reads no further, with our words in it once.
func cmdlineWithMemory(text string) (line string, changed bool) {
	all := lines(text)
	if len(all) == 0 {
		return strings.Join(memoryWords(), " ") + "\n", true
	}
	words := strings.Fields(all[0])
	missing := slices.DeleteFunc(memoryWords(), func(w string) bool { return slices.Contains(words, w) })
	if len(missing) == 0 && !slices.ContainsFunc(words, disablesMemory) {
		return "", false
	}
	words = slices.DeleteFunc(words, func(w string) bool { return disablesMemory(w) || w == "cgroup_memory=0" })
	return strings.Join(append(words, missing...), " ") + "\n", true
}

// fixCmdline replaces the file and keeps the old one beside it. The card's FAT
// file system knows no permissions: the file keeps those it shows.
func (x *exam) fixCmdline(file string, old []byte, line string) (string, error) {
	info, err := os.Stat(x.Path(file))
	if err != nil {
		return "", fmt.Errorf("read the kernel's command line: %w", err)
	}
	backup := file + ".before-skiff"
	if _, err := os.Stat(x.Path(backup)); !errors.Is(err, fs.ErrNotExist) {
		backup += "-" + x.now().UTC().Format("20060102T150405Z")
	}
	if err := x.note(hostchange.Change{Kind: hostchange.File, Value: backup}); err != nil {
		return "", err
	}
	if err := atomicfile.Write(x.Path(backup), old, info.Mode().Perm()); err != nil {
		return "", fmt.Errorf("keep a copy of the kernel's command line: %w", err)
	}
	if err := x.note(hostchange.Change{Kind: hostchange.Replaced, Value: file, Before: hostchange.Replacement(backup, []byte(line))}); err != nil {
		return "", err
	}
	if err := atomicfile.Write(x.Path(file), []byte(line), info.Mode().Perm()); err != nil {
		return "", fmt.Errorf("write the kernel's command line: %w", err)
	}
	return fmt.Sprintf("wrote %s into the one line of %s; the old file is %s. Reboot the board now", strings.Join(memoryWords(), " "), file, backup), nil
}

// day is a day.
const day = 24 * time.Hour
