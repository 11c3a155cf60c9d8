package release

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// Names of the files that every release has.
const (
	SumsName          = "SHA256SUMS"
	SumsSignatureName = SumsName + ".minisig"
)

// Sums are the SHA-256 checksums of files by their names.
type Sums map[string]string

// ReadSums reads the list that sha256sum writes, and believes it only if the key
// has signed it.
func ReadSums(list, signature io.Reader, key Key) (Sums, error) {
	text, err := readAtMost(list, maxSums)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", SumsName, err)
	}
	sig, err := readAtMost(signature, maxSignature)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", SumsSignatureName, err)
	}
	if err := key.Verify(text, sig); err != nil {
		return nil, fmt.Errorf("verify %s: %w", SumsName, err)
	}
	sums := make(Sums)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		sum, name, ok := strings.Cut(line, " ")
		// What follows the blank says whether the file was read as text or binary.
		if !ok || len(name) < 2 || !strings.ContainsRune(" *", rune(name[0])) {
			return nil, fmt.Errorf("read %s: %q is no line of it", SumsName, line)
		}
		name = name[1:]
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != 32 {
			return nil, fmt.Errorf("read %s: %q is no SHA-256 checksum", SumsName, sum)
		}
		if _, twice := sums[name]; twice {
			return nil, fmt.Errorf("read %s: it has %s twice", SumsName, name)
		}
		sums[name] = strings.ToLower(sum)
	}
	return sums, nil
}
