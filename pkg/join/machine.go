package join

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
)

// Machine names the hardware by the first of the files that says something, or
// returns "". Only a hash leaves the machine.
func Machine(files ...string) string {
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // Most machines have one of them at most.
		}
		text := strings.ToLower(strings.Trim(string(data), "\x00 \r\n\t"))
		// Vendors who forget it leave words or repeat one digit.
		if len(text) < 8 || strings.Contains(text, " ") || strings.Trim(text, text[:1]+"-") == "" {
			continue
		}
		sum := sha256.Sum256([]byte("skiff machine " + text))
		return hex.EncodeToString(sum[:16])
	}
	return ""
}
