package config

import "strings"

// Source is the kind of place a value comes from.
type Source string

// Sources, weakest first. FromHost marks what Complete worked out.
const (
	FromDefault Source = "default"
	FromHost    Source = "computed"
	FromFile    Source = "file"
	FromEnv     Source = "environment"
	FromFlag    Source = "flag"
)

// Origin says where a value was set. Where is "FILE:LINE", the name of the
// variable or of the flag.
type Origin struct {
	Source Source
	Where  string
}

func (o Origin) String() string {
	if o.Where == "" {
		return string(o.Source)
	}
	return string(o.Source) + " " + o.Where
}

// Origins holds the origin of every option that was set by someone, by option
// name. What is missing has its default.
type Origins map[string]Origin

// Setting is one line of the effective configuration.
type Setting struct {
	Name   string
	Kind   Kind
	Values []string // in text form; one for a scalar, none if empty
	Origin Origin
}

// Effective lists the options of a completed configuration with their values
// and where they came from, in the order of the table. Secrets are masked.
func Effective(c Completed, origins Origins) []Setting {
	var out []Setting
	defaults := Default()
	for _, o := range OptionsFor(c.Role) {
		if o.FlagOnly || o.EnvOnly && origins[o.Name].Source == "" {
			continue
		}
		v := o.Bind(&c.Config)
		s := Setting{Name: o.Name, Kind: v.Kind, Values: v.Get()}
		var ok bool
		if s.Origin, ok = origins[o.Name]; !ok {
			s.Origin = Origin{Source: FromDefault}
			if !equal(s.Values, o.Bind(defaults).Get()) {
				s.Origin.Source = FromHost
			}
		}
		for i := range s.Values {
			s.Values[i] = masked(o, s.Values[i])
		}
		out = append(out, s)
	}
	return out
}

func equal(a, b []string) bool { return strings.Join(a, "\x00") == strings.Join(b, "\x00") }

// masked is maskedURL for the options whose value may hold a password.
func masked(o Option, s string) string {
	if o.Hidden && s != "" {
		return "[redacted]"
	}
	if !o.Secret {
		return s
	}
	return maskedURL(s)
}

// maskedURL hides the password in a URL. Data source names of databases are
// only nearly URLs, so net/url does not help.
func maskedURL(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return s
	}
	at := strings.LastIndex(rest, "@")
	if at < 0 {
		return s
	}
	user, _, _ := strings.Cut(rest[:at], ":")
	return scheme + "://" + user + ":[redacted]" + rest[at:]
}
