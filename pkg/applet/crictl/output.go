package crictl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

// shortID is how many characters of an id crictl shows.
const shortID = 13

// table writes rows under headings, in crictl's way.
func table(w io.Writer, heads []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 20, 1, 3, ' ', 0)
	fmt.Fprintln(t, strings.Join(heads, "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// checkFormat refuses an output format before any work is done.
func checkFormat(format string, allowed ...string) error {
	if slices.Contains(allowed, format) {
		return nil
	}
	return fmt.Errorf("invalid --output %q: want one of %s", format, strings.Join(allowed, ", "))
}

// messageValue turns a message of the CRI into plain values, with the names and
// defaults that crictl prints.
func messageValue(m proto.Message) (any, error) {
	b, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, err
	}
	return v, nil
}

// structured prints a value as JSON or YAML.
func structured(w io.Writer, format string, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	out := b.Bytes()
	if format == "yaml" {
		y, err := yaml.JSONToYAML(out)
		if err != nil {
			return err
		}
		out = y
	}
	_, err := w.Write(out)
	return err
}

// structuredList prints messages under one key, as crictl's list verbs do.
func structuredList[M proto.Message](w io.Writer, format, key string, items []M) error {
	list := make([]any, 0, len(items))
	for _, i := range items {
		v, err := messageValue(i)
		if err != nil {
			return err
		}
		list = append(list, v)
	}
	return structured(w, format, map[string]any{key: list})
}

// withInfo joins a status and the runtime's verbose information, whose values
// are JSON in strings.
func withInfo(status proto.Message, info map[string]string) (map[string]any, error) {
	v, err := messageValue(status)
	if err != nil {
		return nil, err
	}
	readableTimes(v)
	out := map[string]any{"status": v}
	for k, text := range info {
		var parsed any
		if json.Unmarshal([]byte(text), &parsed) != nil {
			parsed = text
		}
		out[k] = parsed
	}
	return out, nil
}

// readableTimes turns the times of a status, nanoseconds in the CRI, into the
// form that crictl prints.
func readableTimes(v any) {
	m, ok := v.(map[string]any)
	if !ok {
		return
	}
	for _, k := range []string{"createdAt", "startedAt", "finishedAt"} {
		text, ok := m[k].(string)
		if !ok {
			continue
		}
		nanos, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			continue
		}
		at := time.Time{}
		if nanos != 0 {
			at = time.Unix(0, nanos).UTC()
		}
		m[k] = at.Format(time.RFC3339Nano)
	}
}

// id shortens an id for a table.
func id(s string, whole bool) string {
	s = strings.TrimPrefix(s, "sha256:")
	if whole || len(s) <= shortID {
		return s
	}
	return s[:shortID]
}

// ago renders a time of the CRI, in nanoseconds.
func ago(now time.Time, nanos int64) string {
	return units.HumanDuration(now.Sub(time.Unix(0, nanos))) + " ago"
}

// size renders bytes as crictl does.
func size(n uint64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

// matcher makes a function of a regular expression; an empty one fits all.
func matcher(flag, expr string) (func(string) bool, error) {
	if expr == "" {
		return func(string) bool { return true }, nil
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, fmt.Errorf("invalid --%s %q: %w", flag, expr, err)
	}
	return re.MatchString, nil
}

// labels parses repeated key=value arguments.
func labels(args []string) (map[string]string, error) {
	if len(args) == 0 {
		return nil, nil
	}
	out := map[string]string{}
	for _, a := range args {
		k, v, ok := strings.Cut(a, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("invalid --label %q: want key=value", a)
		}
		out[k] = v
	}
	return out, nil
}
