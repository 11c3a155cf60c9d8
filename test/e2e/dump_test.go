package e2e

import "strings"

// dumpLimit is what one command of a dump may add to the test's output.
const dumpLimit = 5000

// endpointLines prints the endpoints of EndpointSlices, one in a line.
const endpointLines = `jsonpath={range .items[*].endpoints[*]}{.targetRef.name} {.addresses} {.conditions}{"\n"}{end}`

// dump adds to a failed test what the node thinks of the namespace: what the
// API says, what runs, and which rules the kernel has.
func (s *space) dump() {
	if !s.t.Failed() || !s.Runs() {
		return
	}
	kubectl := []string{"skiff", "kubectl", "--request-timeout=5s", "-n", s.ns}
	for _, args := range [][]string{
		append(kubectl, "get", "pods", "-A", "-o", "wide"),
		append(kubectl, "get", "pods", "-o", "jsonpath={.items[*].status}"),
		append(kubectl, "get", "services,endpointslices", "-o", "wide"),
		append(kubectl, "get", "endpointslices", "-o", endpointLines),
		append(kubectl, "get", "events"),
		{"skiff", "crictl", "ps", "-a"},
		{"ip", "-brief", "address"},
		{"ip", "neighbour"},
	} {
		out := s.Exec(args...).String()
		s.t.Logf("--- %s\n%s", strings.Join(args, " "), out[:min(len(out), dumpLimit)])
	}
	rules := s.Exec("/var/lib/skiff/bin/nft", "list", "table", "ip", "kube-proxy").String()
	s.t.Logf("--- kube-proxy's rules for namespace %s\n%s", s.ns, rulesFor(s.ns, rules))
}

// rulesFor picks the chains, sets and maps of a table that name the namespace.
func rulesFor(ns, table string) string {
	const end = "\n\t}\n"
	var b strings.Builder
	for part := range strings.SplitSeq(table, end) {
		if strings.Contains(part, ns+"/") {
			b.WriteString(strings.TrimLeft(part, "\n") + end)
		}
	}
	return b.String()
}
