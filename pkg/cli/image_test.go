package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/agent/images"
)

func TestImageTable(t *testing.T) {
	var out strings.Builder
	err := imageTable(&out, []images.Info{
		{Name: "skiff.local/pause:1", Digest: "sha256:0123456789abcdef", Size: 1234, Pinned: true},
		{Name: "docker.io/library/web:2", Digest: "sha256:fedcba9876543210", Size: 45_678_901},
		{Name: "broken:1", Digest: "sha256:00", Problem: "content not found"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `NAME                     DIGEST        SIZE        PINNED
skiff.local/pause:1      0123456789ab  1.2 kB      yes
docker.io/library/web:2  fedcba987654  45.7 MB     no
broken:1                 00            incomplete  no
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestMegabytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0.0 kB", 1234: "1.2 kB", 99_999: "100.0 kB", 100_000: "0.1 MB", 45_678_901: "45.7 MB"} {
		if got := megabytes(n); got != want {
			t.Errorf("megabytes(%d) = %s, want %s", n, got, want)
		}
	}
}
