package log

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestRecent(t *testing.T) {
	r := &Recent{Size: 100}
	for i := range 1000 {
		fmt.Fprintf(r, "line %d\n", i)
		if cap(r.kept) > 1000 {
			t.Fatalf("%d bytes are kept", cap(r.kept))
		}
	}
	w := httptest.NewRecorder()
	r.ServeHTTP(w, nil)
	got := w.Body.String()
	if !strings.HasPrefix(got, "line ") || !strings.HasSuffix(got, "line 998\nline 999\n") || len(got) > 100 || len(got) < 80 {
		t.Errorf("kept %q", got)
	}
}
