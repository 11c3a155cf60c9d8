package deploy

import "testing"

func TestNewer(t *testing.T) {
	for _, tt := range []struct {
		name, ours, theirs string
		want               bool
	}{
		{"older", "v1.6.3", "v1.5.10", false},
		{"the same", "v1.6.3", "v1.6.3", false},
		{"newer", "v1.6.3", "v1.10.0", true},
		{"another form", "1.0", "2.0", true},
		{"no version there", "v1.6.3", "", false},
		{"no version here", "", "v1.0.0", false},
	} {
		if got := newer(tt.ours, tt.theirs); (got != "") != tt.want {
			t.Errorf("%s: newer = %q, want %t", tt.name, got, tt.want)
		}
	}
}
