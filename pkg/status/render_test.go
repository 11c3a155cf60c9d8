package status

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/pkg/component"
)

func sample(now time.Time) *Report {
	return &Report{
		Version: "v1.36.3", PID: 42, Started: now.Add(-90 * time.Second),
		Components: []component.Status{
			{Name: "datastore", State: component.Ready, Since: now.Add(-89 * time.Second), ReadyAfter: 123456789},
			{Name: "kubelet", State: component.Failed, Since: now.Add(-2 * time.Second), Restarts: 3, Message: "panic: x\ngoroutine 1\n"},
		},
		AddOns: []AddOn{
			{Name: "site", State: "failed", Source: "/m/site.yaml", Objects: 2, Message: "no such kind", Since: now.Add(-time.Minute)},
			{Name: "web", State: "applied", Source: "bundled:web.yaml", Objects: 1, Since: now.Add(-time.Hour)},
		},
		Nodes: []Node{
			{Name: "shop", State: NodeReady, Since: now.Add(-time.Minute), Version: "v1.36.3", Address: "192.0.2.1"},
			{Name: "till", State: "unreachable", Since: now.Add(-2 * time.Minute), Message: "no word"},
		},
		Notes: []Note{{Key: "manifest/site", Message: "no such kind", Since: now.Add(-time.Minute)}, {Key: "manifests/a.yaml", Message: "line 3", Since: now.Add(-26 * time.Hour)}},
	}
}

func TestWriteText(t *testing.T) {
	now := time.Unix(1e9, 0)
	var b bytes.Buffer
	if err := WriteText(&b, sample(now), now, false); err != nil {
		t.Fatal(err)
	}
	const want = `skiff v1.36.3 (pid 42, up 1m30s): not ready, 1 of 2 components missing

COMPONENT  STATE   SINCE  READY AFTER  RESTARTS  WHY
datastore  ready   1m29s  123ms        0
kubelet    failed  2s     -            3         panic: x …

NODE  STATE        SINCE  VERSION  ADDRESS    WHY
shop  ready        1m0s   v1.36.3  192.0.2.1
till  unreachable  2m0s                       no word

ADDON  STATE    SINCE  OBJECTS  SOURCE            WHY
site   failed   1m0s   2        /m/site.yaml      no such kind
web    applied  1h0m   1        bundled:web.yaml

NOTE              SINCE  MESSAGE
manifests/a.yaml  1d2h   line 3

What to do: WHY says what is missing. ` + "`skiff doctor`" + ` looks for causes on this machine;
` + "`skiff bundle`" + ` packs what somebody needs who helps you.
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestWriteJSON(t *testing.T) {
	want := sample(time.Unix(1e9, 0).UTC())
	var b bytes.Buffer
	if err := WriteJSON(&b, want); err != nil {
		t.Fatal(err)
	}
	var got Report
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, &got); diff != "" {
		t.Errorf("round trip -want +got:\n%s", diff)
	}
}

// TestColours finds the same picture under the colours.
func TestColours(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := sample(now)
	r.Components[0].Message = "said \x1b[2J by others"
	coloured := text(r, now, true)
	for _, want := range []string{red + "failed" + plain, green + "ready" + plain, red + "unreachable" + plain, bold + "COMPONENT"} {
		if !strings.Contains(coloured, want) {
			t.Errorf("no %q in %q", want, coloured)
		}
	}
	bare := coloured
	for _, colour := range []string{green, yellow, red, grey, bold, plain} {
		bare = strings.ReplaceAll(bare, colour, "")
	}
	if diff := cmp.Diff(text(r, now, false), bare); diff != "" {
		t.Errorf("-plain +coloured without its colours:\n%s", diff)
	}
	if strings.Contains(bare, "\x1b") {
		t.Errorf("an escape sequence of others has reached the terminal: %q", bare)
	}
	for _, c := range []struct {
		env  map[string]string
		want Paint
	}{
		{map[string]string{"TERM": "xterm"}, true},
		{map[string]string{"TERM": "xterm", "NO_COLOR": "1"}, false},
		{map[string]string{"TERM": "xterm", "NO_COLOR": ""}, true},
		{map[string]string{"TERM": "dumb"}, false},
		{nil, false},
	} {
		if got := Colours(func(name string) string { return c.env[name] }); got != c.want {
			t.Errorf("colours with %v: %v", c.env, got)
		}
	}
}

func TestClip(t *testing.T) {
	for _, c := range []struct {
		line    string
		columns int
		want    string
	}{
		{"abc", 5, "abc"},
		{"abcdef", 3, "abc"},
		{"größer", 4, "größ"},
		{green + "ready" + plain + "  x", 8, green + "ready" + plain + "  x"},
		{green + "ready" + plain, 3, green + "rea" + plain},
		{"abc", 0, "abc"},
	} {
		if got := clip(c.line, c.columns); got != c.want {
			t.Errorf("clip(%q, %d) = %q, want %q", c.line, c.columns, got, c.want)
		}
	}
}
