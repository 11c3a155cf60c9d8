package images

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Tool is the image every scenario uses: Debian's static busybox with its
// applets as links, and /tool, our own executable (see the package tool).
const Tool = "skiff.test/tool:1"

// WriteTool makes the image Tool in dir, a scratch directory, and writes its
// archive to dir/tool.tar. repo is the top of the repository.
func WriteTool(repo, dir string) (archive string, err error) {
	tool := filepath.Join(dir, "tool")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", tool, "./test/images/tool")
	build.Dir = repo
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build test/images/tool: %w\n%s", err, out)
	}
	layers, err := Busybox("/bin/busybox")
	if err != nil {
		return "", err
	}
	layout := Layout{Dir: filepath.Join(dir, "layout")}
	image := Image{Ref: Tool, Layers: append(layers, Executable(tool, "tool")), Cmd: []string{"/tool", "serve"}}
	if err := layout.Add(image); err != nil {
		return "", err
	}
	archive = filepath.Join(dir, "tool.tar")
	return archive, layout.ArchiveFile(Tool, archive)
}

// Busybox is the root file system of an image around one static busybox.
func Busybox(path string) ([]Layer, error) {
	out, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list applets of %s (Debian package busybox-static): %w", path, err)
	}
	var links []string
	for applet := range strings.FieldsSeq(string(out)) {
		switch applet {
		case "busybox", "init", "linuxrc", "dpkg", "dpkg-deb", "rpm", "rpm2cpio":
		default:
			links = append(links, "bin/"+applet)
		}
	}
	return []Layer{
		Dirs(0o755, "bin", "etc", "root", "home", "proc", "sys", "dev", "run", "var"),
		Dirs(0o1777, "tmp"),
		Executable(path, "bin/busybox"),
		Links("busybox", links...),
		Files(map[string]string{
			"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
			"etc/group":  "root:x:0:\nnogroup:x:65534:\n",
		}),
	}, nil
}
