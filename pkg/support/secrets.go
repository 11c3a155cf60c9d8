package support

import (
	"encoding/base64"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"skiff/pkg/config"
	"skiff/pkg/token"
)

// HostSecrets are the secrets that this machine has in files and in the
// environment of processes: what a Scrubber should know.
func HostSecrets(o Options) []string {
	var out []string
	l := o.Paths
	for _, file := range []string{l.Token(), l.AgentToken(), l.NodeToken()} {
		out = append(out, tokenSecrets(read(file))...)
	}
	for _, file := range []string{l.NodePassword(), l.WireGuardKey()} {
		out = append(out, read(file))
	}
	for _, file := range configFiles(o.ConfigFile) {
		out = append(out, configSecrets(read(file))...)
	}
	out = append(out, registrySecrets(read(o.Registries))...)
	environments := []string{strings.Join(o.Environ, "\x00"), read(filepath.Join(procOf(o.PID), "environ"))}
	for _, file := range serviceFiles(o) {
		for line := range strings.Lines(read(file)) {
			environments = append(environments, strings.Trim(strings.TrimPrefix(strings.TrimSpace(line), "Environment="), `"'`))
			out = append(out, argumentSecrets(strings.Fields(line))...)
		}
	}
	for _, environ := range environments {
		out = append(out, environmentSecrets(environ)...)
	}
	out = append(out, argumentSecrets(strings.Split(read(filepath.Join(procOf(o.PID), "cmdline")), "\x00"))...)
	return slices.DeleteFunc(out, func(s string) bool { return strings.TrimSpace(s) == "" })
}

// read is the content of a file; one that is not there has none.
func read(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return string(data)
}

// tokenSecrets is the secret part of a join token.
func tokenSecrets(text string) []string {
	t, err := token.Parse(text)
	if err != nil {
		return []string{strings.TrimSpace(text)}
	}
	return []string{t.Secret.Reveal()}
}

// secretOptions are the options whose value nobody else should see, and those
// that are URLs with a password.
func secretOptions() (whole, urls []config.Option) {
	for _, o := range config.Options() {
		if o.Hidden {
			whole = append(whole, o)
		}
		if o.Secret {
			urls = append(urls, o)
		}
	}
	return whole, urls
}

// secretValue is what is secret about the value of an option.
func secretValue(name, value string) []string {
	whole, urls := secretOptions()
	named := func(o config.Option) bool { return o.Name == name || o.Env == name }
	switch {
	case slices.ContainsFunc(whole, named):
		return tokenSecrets(value)
	case slices.ContainsFunc(urls, named):
		return urlSecrets(value)
	}
	return nil
}

// urlSecrets is the password of a URL, as it is written and as it is meant.
func urlSecrets(text string) []string {
	_, rest, _ := strings.Cut(text, "://")
	at := strings.LastIndex(rest, "@")
	if at < 0 {
		return nil
	}
	_, password, _ := strings.Cut(rest[:at], ":")
	out := []string{password}
	if plain, err := url.QueryUnescape(password); err == nil {
		out = append(out, plain)
	}
	return out
}

// configSecrets are those of a configuration file.
func configSecrets(text string) []string {
	values := map[string]any{}
	if yaml.Unmarshal([]byte(text), &values) != nil {
		return nil // Nothing of such a file is shown.
	}
	var out []string
	for key, value := range values {
		key = strings.TrimSuffix(key, "+")
		for _, s := range texts(value) {
			out = append(out, secretValue(key, s)...)
		}
	}
	return out
}

// texts are all scalars of a YAML value that are texts.
func texts(v any) (out []string) {
	switch v := v.(type) {
	case string:
		out = append(out, v)
	case []any:
		for _, item := range v {
			out = append(out, texts(item)...)
		}
	case map[string]any:
		for _, item := range v {
			out = append(out, texts(item)...)
		}
	}
	return out
}

// registrySecrets are the credentials in a registries.yaml.
func registrySecrets(text string) []string {
	var r struct {
		Mirrors map[string]any `yaml:"mirrors"`
		Configs map[string]struct {
			Auth map[string]any `yaml:"auth"`
		} `yaml:"configs"`
	}
	if yaml.Unmarshal([]byte(text), &r) != nil {
		return nil
	}
	var out []string
	for _, c := range r.Configs {
		for key, value := range c.Auth {
			for _, s := range texts(value) {
				if key == "username" {
					continue
				}
				out = append(out, s)
				if plain, err := base64.StdEncoding.DecodeString(s); err == nil && key == "auth" {
					_, password, _ := strings.Cut(string(plain), ":")
					out = append(out, string(plain), password)
				}
			}
		}
	}
	for _, m := range r.Mirrors {
		for _, s := range texts(m) {
			out = append(out, urlSecrets(s)...)
		}
	}
	return out
}

// environmentSecrets are those in NAME=VALUE items.
func environmentSecrets(environ string) []string {
	var out []string
	for item := range strings.SplitSeq(environ, "\x00") {
		name, value, ok := strings.Cut(strings.TrimSpace(item), "=")
		value = strings.Trim(value, `"'`)
		switch {
		case !ok || value == "" || filepath.IsAbs(value):
		case secretName(name):
			out = append(out, tokenSecrets(value)...)
		default:
			out = append(out, secretValue(name, value)...)
			out = append(out, urlSecrets(value)...)
		}
	}
	return out
}

// secretName reports whether something of this name is a secret.
func secretName(name string) bool {
	name = strings.ToLower(name)
	for _, end := range []string{"token", "password", "passwd", "secret", "key", "credentials", "pass", "psk"} {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return false
}

// argumentSecrets are those in the arguments of a process.
func argumentSecrets(args []string) []string {
	whole, urls := secretOptions()
	var out []string
	for i, arg := range args {
		name, value, with := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !strings.HasPrefix(arg, "-") {
			continue
		}
		if !with && i+1 < len(args) {
			value = args[i+1]
		}
		for _, o := range append(whole, urls...) {
			if o.Name == name || slices.Contains(o.Aliases, name) {
				out = append(out, secretValue(o.Name, value)...)
			}
		}
	}
	return out
}
