package support

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// learned is that a Scrubber knows the cluster's secrets.
type learned struct {
	once sync.Once
	err  error
}

const (
	// mostSecrets bounds how many values are looked for in every line.
	mostSecrets = 4000
	// A value that is longer is a file or a certificate; of it lines are
	// looked for that look random.
	longSecret = 256
	// leastClusterSecret keeps words such as "postgres" from being one.
	leastClusterSecret = 8
)

var errEnough = errors.New("enough")

// learn tells the Scrubber the values of the cluster's Secrets. It has to come
// before anything of the cluster is shown. Without the right to read them, as
// on an agent, nothing of them is there to be shown either, but for what logs
// and messages repeat.
func (a *api) learn(ctx context.Context, scrub *Scrubber) error {
	if err := a.open(ctx); err != nil {
		return err
	}
	a.secrets.once.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, learnTime)
		defer cancel()
		var values []string
		err := a.list(ctx, "/api/v1/secrets", func(o map[string]any) error {
			values = append(values, clusterSecrets(o)...)
			if len(values) > mostSecrets {
				return errEnough
			}
			return nil
		})
		scrub.Add(values...)
		if err != nil && !errors.Is(err, errEnough) && !strings.Contains(err.Error(), " 403 ") {
			a.secrets.err = fmt.Errorf("the cluster's Secrets could not be read, so nobody knows what in it must not be shown: %w", err)
		}
	})
	return a.secrets.err
}

// clusterSecrets are the values of a Secret that are secret.
func clusterSecrets(secret map[string]any) []string {
	if text(secret["type"]) == "helm.sh/release.v1" {
		return nil // A compressed archive that nobody repeats.
	}
	data, _ := secret["data"].(map[string]any)
	var out []string
	for key, v := range data {
		value, err := base64.StdEncoding.DecodeString(text(v))
		if err != nil || slices.Contains([]string{"ca.crt", "tls.crt", "namespace", "username", "user", "host", "port"}, key) {
			continue
		}
		s := strings.TrimSpace(string(value))
		switch {
		case len(s) < leastClusterSecret:
		case len(s) <= longSecret && !strings.Contains(s, "\n"):
			out = append(out, s)
		default:
			for line := range strings.Lines(s) {
				if line = strings.TrimSpace(line); len(line) >= 2*leastClusterSecret && !strings.ContainsAny(line, " \t") {
					out = append(out, line)
				}
			}
		}
	}
	return out
}

// secretKey is the name of a field whose text is a secret. Names of Secrets are
// none, nor are the names of keys in them.
var secretKey = regexp.MustCompile(`(?i)(password|passwd|passphrase|token|secret|api[_-]?key|access[_-]?key|credentials?|psk)$`)

// secretFlag is an argument that is followed by a secret.
var secretFlag = regexp.MustCompile(`(?i)^--?[\w-]*(password|passwd|token|secret|key)$`)

// longAnnotation is where an annotation is cut.
const longAnnotation = 512

// prune takes out of an object of the API what is nobody's business: the
// values of environment variables, of charts, what a last kubectl apply said,
// and fields that are named like secrets; and who has set which field.
func prune(object map[string]any) {
	if meta, ok := object["metadata"].(map[string]any); ok {
		delete(meta, "managedFields")
		if notes, ok := meta["annotations"].(map[string]any); ok {
			delete(notes, "kubectl.kubernetes.io/last-applied-configuration")
			for key, v := range notes {
				if s := text(v); len(s) > longAnnotation {
					notes[key] = s[:longAnnotation] + "… (cut)"
				}
			}
		}
	}
	if spec, ok := object["spec"].(map[string]any); ok {
		for _, key := range []string{"values", "valuesContent", "set", "chartContent"} {
			if spec[key] != nil {
				spec[key] = redacted
			}
		}
	}
	mask(object)
}

func mask(v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, below := range v {
			switch list, _ := below.([]any); {
			case key == "env":
				maskEnvironment(list)
			case key == "args" || key == "command":
				maskArguments(list)
			case secretKey.MatchString(key) && text(below) != "":
				v[key] = redacted
			default:
				mask(below)
			}
		}
	case []any:
		for _, below := range v {
			mask(below)
		}
	}
}

func maskEnvironment(list []any) {
	for _, item := range list {
		if variable, ok := item.(map[string]any); ok && variable["value"] != nil {
			variable["value"] = redacted
		}
	}
}

func maskArguments(list []any) {
	for i := range list {
		if i > 0 && secretFlag.MatchString(text(list[i-1])) {
			list[i] = redacted
		}
	}
}
