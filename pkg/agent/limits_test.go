package agent

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRaise(t *testing.T) {
	tests := []struct {
		name, have, want string
		raised, wantErr  bool
	}{
		{name: "too low", have: "128\n", want: "8192", raised: true},
		{name: "just enough", have: "8192\n", want: "8192\n"},
		{name: "more", have: "65536\n", want: "65536\n"},
		{name: "no number", have: "many\n", want: "many\n", wantErr: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "limit")
			if err := os.WriteFile(file, []byte(tt.have), 0o644); err != nil {
				t.Fatal(err)
			}
			raised, err := raise(file, 8192, nil)
			if raised != tt.raised || (err != nil) != tt.wantErr {
				t.Errorf("raised %v, error %v", raised, err)
			}
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("the file holds %q, want %q", got, tt.want)
			}
		})
	}
}
