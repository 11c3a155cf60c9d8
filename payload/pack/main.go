// Command pack appends a directory of helper executables to the skiff
// executable. Everything it knows about the format is in pkg/payload.
package main

import (
	"fmt"
	"os"

	"skiff/pkg/payload"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: pack EXECUTABLE DIRECTORY OUTPUT")
		os.Exit(2)
	}
	if err := payload.WriteFile(os.Args[3], os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}
