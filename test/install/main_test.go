package install

import (
	"fmt"
	"os"
	"testing"

	"skiff/test/hosts"
)

func TestMain(m *testing.M) {
	hosts.Init()
	if err := hosts.Reap(); err != nil {
		fmt.Fprintln(os.Stderr, "install:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
