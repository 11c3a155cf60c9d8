package upgrade

import (
	"strings"
	"testing"
)

func TestSuits(t *testing.T) {
	at := func(v, k string) Release { return Release{Version: v, Kubernetes: k, Schema: 1} }
	newSchema := at("v1.36.4+skiff1", "v1.36.4")
	newSchema.Schema = 2
	one := at("v1.36.3+skiff1", "v1.36.3")
	tests := []struct {
		name      string
		from, to  Release
		n         Neighbours
		downgrade bool
		want      string // part of the error, "" for none
	}{
		{"patch", one, at("v1.36.4+skiff1", "v1.36.4"), Neighbours{}, false, ""},
		{"our own", one, at("v1.36.3+skiff2", "v1.36.3"), Neighbours{}, false, ""},
		{"minor", one, at("v1.37.0+skiff1", "v1.37.0"), Neighbours{}, false, ""},
		{"two minors", one, at("v1.38.0+skiff1", "v1.38.0"), Neighbours{}, false, "Kubernetes v1.37 first"},
		{"major", one, at("v2.0.0+skiff1", "v2.0.0"), Neighbours{}, false, "no way"},
		{"schema up", one, newSchema, Neighbours{}, false, ""},
		{"schema down", newSchema, at("v1.36.5+skiff1", "v1.36.5"), Neighbours{}, true, "does not go back"},
		{"minor down", at("v1.37.0+skiff1", "v1.37.0"), one, Neighbours{}, true, "does not go back"},
		{"patch down", at("v1.36.4+skiff1", "v1.36.4"), one, Neighbours{}, false, "--allow-downgrade"},
		{"patch down, allowed", at("v1.36.4+skiff1", "v1.36.4"), one, Neighbours{}, true, ""},
		{"our own down", at("v1.36.3+skiff2", "v1.36.3"), one, Neighbours{}, false, "--allow-downgrade"},
		{"fewer commits", at("v1.36.3+skiff1-12-gabc", "v1.36.3"), at("v1.36.3+skiff1-9-gdef", "v1.36.3"), Neighbours{}, false, "--allow-downgrade"},
		{"more commits", at("v1.36.3+skiff1-9-gabc", "v1.36.3"), at("v1.36.3+skiff1-12-gdef", "v1.36.3"), Neighbours{}, false, ""},
		{"preview to final", at("v1.36.3-rc.1+skiff1", "v1.36.3-rc.1"), one, Neighbours{}, false, ""},
		{"final to preview", one, at("v1.36.3-rc.1+skiff1", "v1.36.3-rc.1"), Neighbours{}, false, "--allow-downgrade"},
		{"a name of one's own", at("v1.36.3-mine", "v1.36.3"), at("v1.36.3+shop", "v1.36.3"), Neighbours{}, false, ""},
		{"no version", one, at("v1.36.3+skiff1", "latest"), Neighbours{}, false, "no version"},

		{"agent with its server", one, at("v1.37.0+skiff1", "v1.37.0"), Neighbours{Agent: true, Server: "v1.37.1+skiff1"}, false, ""},
		{"agent before its server", one, at("v1.37.0+skiff1", "v1.37.0"), Neighbours{Agent: true, Server: "v1.36.3+skiff1"}, false, "upgrade the server first"},
		{"agent without a server", one, at("v1.37.0+skiff1", "v1.37.0"), Neighbours{Agent: true}, false, "no server can be asked"},
		{"agent without a server, patch", one, at("v1.36.4+skiff1", "v1.36.4"), Neighbours{Agent: true}, false, ""},
		{"agent, newer patch than its server", one, at("v1.36.9+skiff1", "v1.36.9"), Neighbours{Agent: true, Server: "v1.36.3+skiff1"}, false, ""},
		{"server with old nodes", one, at("v1.37.0+skiff1", "v1.37.0"), Neighbours{Oldest: "v1.34.0"}, false, ""},
		{"server with nodes too old", one, at("v1.37.0+skiff1", "v1.37.0"), Neighbours{Oldest: "v1.33.9"}, false, "upgrade the nodes first"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Suits(tt.from, tt.to, tt.n, tt.downgrade)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Suits: %v, want %q", err, tt.want)
			}
		})
	}
}
