package status

import (
	"os"

	"golang.org/x/sys/unix"
)

// Terminal tells whether f is one, and of which size it is now. Without a size
// of its own it is taken for the smallest that people have.
func Terminal(f *os.File) (size func() (columns, rows int), ok bool) {
	fd := int(f.Fd()) //nolint:gosec // File descriptors are small.
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		return nil, false
	}
	return func() (int, int) {
		w, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		if err != nil || w.Col == 0 || w.Row == 0 {
			return 80, 24
		}
		return int(w.Col), int(w.Row)
	}, true
}

// Colours tells whether a terminal should show colours: its user may not want
// any (no-color.org), or it may know none.
func Colours(getenv func(string) string) Paint {
	return Paint(getenv("NO_COLOR") == "" && getenv("TERM") != "dumb" && getenv("TERM") != "")
}
