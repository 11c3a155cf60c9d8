package process

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// childEnv makes the test binary act the script in its value instead.
const childEnv = "SKIFF_TEST_CHILD"

func TestMain(m *testing.M) {
	if s, ok := os.LookupEnv(childEnv); ok {
		os.Exit(act(s))
	}
	os.Exit(m.Run())
}

// act runs a script: commands separated by ";".
//
//	say TEXT         one line on standard output
//	err TEXT         one line on standard error
//	spam N           N lines on standard error
//	trap             SIGTERM is written instead of obeyed
//	await SIGNAL     block until SIGTERM or SIGINT, which is written
//	grandchild       start a process that holds the output open; write its PID
//	parent           run a Process that blocks, write its PID, never end
//	exit N           end
//	forever          block
func act(script string) int {
	for c := range strings.SplitSeq(script, ";") {
		verb, arg, _ := strings.Cut(strings.TrimSpace(c), " ")
		switch verb {
		case "say":
			fmt.Println(arg)
		case "err":
			fmt.Fprintln(os.Stderr, arg)
		case "spam":
			n, _ := strconv.Atoi(arg)
			w := bufio.NewWriter(os.Stderr)
			for i := range n {
				fmt.Fprintf(w, "line %d\n", i)
			}
			w.Flush()
		case "trap":
			signal.Ignore(syscall.SIGTERM)
		case "await":
			signals := make(chan os.Signal, 1)
			signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
			fmt.Println("waiting")
			fmt.Println("got", <-signals)
		case "grandchild":
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), childEnv+"=forever")
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			if err := cmd.Start(); err != nil {
				fmt.Println(err)
				return 1
			}
			fmt.Println("grandchild", cmd.Process.Pid)
		case "parent":
			runParent()
		case "exit":
			n, _ := strconv.Atoi(arg)
			return n
		case "forever":
			// A read from a pipe nobody writes to: unlike select{}, the runtime
			// does not take it for a deadlock.
			r, w, _ := os.Pipe()
			defer w.Close()
			_, _ = r.Read(make([]byte, 1))
		}
	}
	return 0
}
