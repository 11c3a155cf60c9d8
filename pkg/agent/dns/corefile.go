package dns

import (
	"bytes"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/coredns/caddy/caddyfile"
)

// etcDir is the directory that Corefiles written for K3s refer to. It exists in
// K3s' CoreDNS container only; adapt puts our own in its place.
const etcDir = "/etc/coredns/"

// resolvConf is how a Corefile names the host's resolvers.
const resolvConf = "/etc/resolv.conf"

// defaultCorefile is what is served when the ConfigMap kube-system/coredns has
// no Corefile. It may be copied into that ConfigMap and changed.
func defaultCorefile(domain string) string {
	return `.:53 {
    errors
    kubernetes ` + domain + ` in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
    hosts /etc/coredns/NodeHosts {
        ttl 60
        reload 15s
        fallthrough
    }
    cache 30
    loadbalance
    import /etc/coredns/custom/*.override
    forward . /etc/resolv.conf {
        failfast_all_unhealthy_upstreams
    }
}
import /etc/coredns/custom/*.server
`
}

// adaptation is what a Corefile written for a container is changed to.
type adaptation struct {
	Listen     []netip.AddrPort // all with the same port
	Dir        string           // takes the place of /etc/coredns
	Kubeconfig string
	Resolvers  []string // take the place of /etc/resolv.conf
	Allow      []netip.Prefix
}

// adapt turns a Corefile as a user writes it, for a container with its own
// network and file system, into one for our place in the process. DESIGN.md has
// the list of changes. An error is the user's to repair.
func adapt(text string, a adaptation) (string, error) {
	text = strings.ReplaceAll(text, etcDir, a.Dir+"/")
	text, err := imports(text, a.Dir)
	if err != nil {
		return "", err
	}
	blocks, err := caddyfile.Parse("Corefile", strings.NewReader(text), accepted())
	if err != nil {
		return "", fmt.Errorf("parse Corefile: %w", err)
	}
	if len(blocks) == 0 {
		return "", fmt.Errorf("parse Corefile: it has no server block")
	}
	var out bytes.Buffer
	for _, b := range blocks {
		if err := a.block(&out, b); err != nil {
			return "", fmt.Errorf("adapt server block %q: %w", strings.Join(b.Keys, " "), err)
		}
	}
	return out.String(), nil
}

// importLine finds the imports of a Corefile.
var importLine = regexp.MustCompile(`(?m)^[ \t]*import[ \t]+"?([^\s"]+).*$`)

// imports refuses to import files other than those from ConfigMaps: who may
// write a ConfigMap may not thereby read the host's files. Imports that match no
// file are removed; caddy would warn of them.
func imports(text, dir string) (string, error) {
	var problem error
	text = importLine.ReplaceAllStringFunc(text, func(line string) string {
		name := importLine.FindStringSubmatch(line)[1]
		if !strings.ContainsAny(name, "/.*?[") { // the name of a snippet
			return line
		}
		if !inside(name, dir) {
			problem = fmt.Errorf("import %s: only files below %s can be imported", name, etcDir)
			return line
		}
		if files, err := filepath.Glob(name); err == nil && len(files) == 0 && strings.ContainsAny(name, "*?[") {
			return ""
		}
		return line
	})
	return text, problem
}

func inside(name, dir string) bool {
	return strings.HasPrefix(filepath.Clean(name), filepath.Clean(dir)+"/")
}

// block writes one adapted server block.
func (a adaptation) block(out *bytes.Buffer, b caddyfile.ServerBlock) error {
	_, bound := b.Tokens["bind"]
	keys := make([]string, len(b.Keys))
	for i, k := range b.Keys {
		keys[i] = k
		if !bound {
			keys[i] = withPort(k, a.Listen[0].Port())
		}
	}
	fmt.Fprintf(out, "%s {\n", strings.Join(keys, " "))
	if !bound {
		out.WriteString("    bind")
		for _, l := range a.Listen {
			out.WriteString(" " + l.Addr().String())
		}
		out.WriteString("\n")
	}
	if _, ok := b.Tokens["acl"]; !ok && len(a.Allow) > 0 {
		fmt.Fprintf(out, "    acl {\n        allow net %s\n        block\n    }\n", join(a.Allow))
	}
	for _, name := range append(slices.Clone(directives), "kubernetes") {
		tokens := b.Tokens[name]
		for _, d := range occurrences(name, tokens) {
			d, err := a.directive(name, d)
			if err != nil {
				return err
			}
			render(out, d)
		}
	}
	out.WriteString("}\n")
	return nil
}

// directive adapts one directive with its arguments and its block.
func (a adaptation) directive(name string, d []caddyfile.Token) ([]caddyfile.Token, error) {
	switch name {
	case "kubernetes":
		return a.kubernetes(d), nil
	case "forward":
		return a.forward(d), nil
	case "hosts":
		if len(d) > 1 && d[1].Line == d[0].Line && filepath.IsAbs(d[1].Text) && !inside(d[1].Text, a.Dir) {
			return nil, fmt.Errorf("hosts %s: only files below %s can be read", d[1].Text, etcDir)
		}
	}
	return d, nil
}

// kubernetes puts in our credentials unless the user names an API server.
func (a adaptation) kubernetes(d []caddyfile.Token) []caddyfile.Token {
	d = slices.Clone(d)
	d[0].Text = dirKubernetes
	for _, t := range d {
		if t.Text == "endpoint" || t.Text == "kubeconfig" {
			return d
		}
	}
	at := d[len(d)-1]
	line := at.Line + 1
	option := []caddyfile.Token{
		{File: at.File, Line: line, Text: "kubeconfig"},
		{File: at.File, Line: line, Text: a.Kubeconfig},
		{File: at.File, Line: line + 1, Text: "}"},
	}
	if at.Text == "}" {
		return append(d[:len(d)-1], option...)
	}
	return append(append(d, caddyfile.Token{File: at.File, Line: at.Line, Text: "{"}), option...)
}

// forward puts the host's resolvers in the place of /etc/resolv.conf. When that
// leaves nobody to ask, the directive becomes an immediate failure.
func (a adaptation) forward(d []caddyfile.Token) []caddyfile.Token {
	var out []caddyfile.Token
	targets := 0
	for i, t := range d {
		onLine := t.Line == d[0].Line && t.File == d[0].File && t.Text != "{"
		switch {
		case onLine && t.Text == resolvConf:
			for _, r := range a.Resolvers {
				out = append(out, caddyfile.Token{File: t.File, Line: t.Line, Text: r})
			}
			targets += len(a.Resolvers)
			continue
		case onLine && i >= 2:
			targets++
		}
		out = append(out, t)
	}
	if targets == 0 && len(d) > 1 {
		return []caddyfile.Token{{File: d[0].File, Line: d[0].Line, Text: dirNoUpstream}}
	}
	return out
}

// withPort puts our port in the place of DNS' own; other ports and other
// transports stay.
func withPort(key string, port uint16) string {
	scheme, rest := "", key
	if i := strings.Index(key, "://"); i >= 0 {
		scheme, rest = key[:i+3], key[i+3:]
	}
	if scheme != "" && scheme != "dns://" {
		return key
	}
	rest = strings.TrimSuffix(rest, ":53")
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.Contains(rest[:i], ":") {
		return key
	}
	return fmt.Sprintf("%s%s:%d", scheme, rest, port)
}

// occurrences splits the tokens of a directive that a block has more than once.
func occurrences(name string, tokens []caddyfile.Token) [][]caddyfile.Token {
	var out [][]caddyfile.Token
	depth, start := 0, 0
	for i, t := range tokens {
		newLine := i == 0 || t.Line != tokens[i-1].Line || t.File != tokens[i-1].File
		if i > start && depth == 0 && newLine && t.Text == name {
			out = append(out, tokens[start:i])
			start = i
		}
		switch t.Text {
		case "{":
			depth++
		case "}":
			depth--
		}
	}
	if len(tokens) > start {
		out = append(out, tokens[start:])
	}
	return out
}

// render writes the tokens of one directive, lines kept.
func render(out *bytes.Buffer, tokens []caddyfile.Token) {
	const indent = "    "
	depth := 1
	for i, t := range tokens {
		if t.Text == "}" {
			depth--
		}
		switch {
		case i == 0:
			out.WriteString(strings.Repeat(indent, depth))
		case t.File == tokens[i-1].File && t.Line == tokens[i-1].Line+strings.Count(tokens[i-1].Text, "\n"):
			out.WriteByte(' ')
		default:
			out.WriteString("\n" + strings.Repeat(indent, depth))
		}
		if t.Text == "{" {
			depth++
		}
		out.WriteString(quote(t.Text))
	}
	out.WriteByte('\n')
}

// quote writes a token so that caddy's lexer reads the same one.
func quote(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\r\n\"") && s[0] != '#' {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"`
}

func join(p []netip.Prefix) string {
	s := make([]string, len(p))
	for i := range p {
		s[i] = p[i].String()
	}
	return strings.Join(s, " ")
}
