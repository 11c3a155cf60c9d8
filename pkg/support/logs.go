package support

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
)

// copyEnd writes the last bytes of a file, from the beginning of a line on.
func copyEnd(w io.Writer, path string, most int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	from := bufio.NewReader(f)
	if skip := info.Size() - most; skip > 0 {
		if _, err := f.Seek(skip, io.SeekStart); err != nil {
			return err
		}
		if _, err := from.ReadString('\n'); err != nil {
			return err
		}
	}
	_, err = io.Copy(w, io.LimitReader(from, most))
	return err
}

// writeArguments shows how a process was started, one argument a line.
func writeArguments(w io.Writer, cmdline string) error {
	args := strings.Split(strings.TrimRight(cmdline, "\x00"), "\x00")
	hide := make(map[string]bool)
	for _, s := range argumentSecrets(args) {
		hide[s] = true
	}
	whole, _ := secretOptions()
	for i, arg := range args {
		for _, o := range whole {
			for _, name := range append([]string{o.Name}, o.Aliases...) {
				switch {
				case i > 0 && strings.HasPrefix(args[i-1], "-") && strings.TrimLeft(args[i-1], "-") == name:
					arg = redacted
				case strings.HasPrefix(arg, "-") && strings.HasPrefix(strings.TrimLeft(arg, "-"), name+"="):
					arg = "--" + o.Name + "=" + redacted
				}
			}
		}
		if hide[arg] {
			arg = redacted
		}
		if _, err := fmt.Fprintln(w, arg); err != nil {
			return err
		}
	}
	return nil
}
