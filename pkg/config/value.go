package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Kind says what an option's value looks like to a person, which decides how
// it is written as a flag, in the environment and in a file.
type Kind int

// Kinds of options. Args is a list whose items may contain commas.
const (
	KindString Kind = iota
	KindBool
	KindNumber
	KindList
	KindArgs
)

// IsList reports whether the option may be given several times.
func (k Kind) IsList() bool { return k == KindList || k == KindArgs }

// Value is one place in a Config, seen as text. Set replaces what was there;
// a scalar is always set with exactly one string.
type Value struct {
	Kind Kind
	Set  func(values []string) error
	Get  func() []string
}

func scalar(kind Kind, set func(string) error, get func() string) Value {
	return Value{
		Kind: kind,
		Set:  func(v []string) error { return set(v[len(v)-1]) },
		Get: func() []string {
			if s := get(); s != "" {
				return []string{s}
			}
			return nil
		},
	}
}

func stringValue(p *string) Value {
	return scalar(KindString,
		func(s string) error { *p = s; return nil },
		func() string { return *p })
}

func boolValue(p *bool) Value {
	set := func(s string) error {
		b, err := strconv.ParseBool(s)
		if err != nil {
			return errors.New("want true or false")
		}
		*p = b
		return nil
	}
	return scalar(KindBool, set, func() string { return strconv.FormatBool(*p) })
}

func intValue(p *int) Value {
	set := func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil {
			return errors.New("want a whole number")
		}
		*p = n
		return nil
	}
	return scalar(KindNumber, set, func() string { return strconv.Itoa(*p) })
}

// What days may be: the shortest is for tests of what comes after the last one.
const (
	leastDays = 30 * time.Second
	mostDays  = 100 * 365
)

func daysValue(p *time.Duration) Value {
	const day = 24 * time.Hour
	set := func(s string) error {
		n, err := strconv.ParseFloat(s, 64)
		d := time.Duration(n * float64(day))
		if err != nil || d < leastDays || n > mostDays {
			return fmt.Errorf("want a number of days; a fraction such as 0.5 may be as short as %s", leastDays)
		}
		*p = d
		return nil
	}
	return scalar(KindNumber, set, func() string { return strconv.FormatFloat(float64(*p)/float64(day), 'f', -1, 64) })
}

func durationValue(p *time.Duration) Value {
	set := func(s string) error {
		d, err := time.ParseDuration(s)
		if err != nil {
			return errors.New("want a time like 90m or 12h")
		}
		*p = d
		return nil
	}
	get := func() string {
		s := p.String() // "12h0m0s"
		for _, zero := range []string{"m0s", "h0m"} {
			if strings.HasSuffix(s, zero) {
				s = s[:len(s)-2]
			}
		}
		return s
	}
	return scalar(KindString, set, get)
}

func addrValue(p *netip.Addr) Value {
	set := func(s string) error {
		a, err := parseAddr(s)
		if err != nil {
			return err
		}
		*p = a
		return nil
	}
	get := func() string {
		if !p.IsValid() {
			return ""
		}
		return p.String()
	}
	return scalar(KindString, set, get)
}

func listValue(kind Kind, p *[]string, clean func(string) (string, error)) Value {
	return listOf(kind, p, clean, func(s string) string { return s })
}

func addrsValue(p *[]netip.Addr) Value {
	return listOf(KindList, p, parseAddr, netip.Addr.String)
}

func prefixesValue(p *[]netip.Prefix) Value {
	return listOf(KindList, p, parsePrefix, netip.Prefix.String)
}

func listOf[T any](kind Kind, p *[]T, parse func(string) (T, error), format func(T) string) Value {
	return Value{
		Kind: kind,
		Set: func(values []string) error {
			out := make([]T, 0, len(values))
			for _, s := range values {
				v, err := parse(strings.TrimSpace(s))
				if err != nil {
					return fmt.Errorf("item %q: %w", s, err)
				}
				out = append(out, v)
			}
			*p = out
			return nil
		},
		Get: func() []string {
			var out []string
			for _, v := range *p {
				out = append(out, format(v))
			}
			return out
		},
	}
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, errors.New("want an IP address like 192.0.2.10 or 2001:db8::10")
	}
	if a.Zone() != "" {
		return netip.Addr{}, errors.New("an address with a zone cannot be used")
	}
	return a.Unmap(), nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, errors.New("want an address range like 10.42.0.0/16 or fd00:42::/56")
	}
	return p, nil
}

func nonEmpty(s string) (string, error) {
	if s == "" {
		return "", errors.New("an empty item")
	}
	return s, nil
}

// cleanArg accepts a component's argument in the forms people write it:
// "v=4", "-v=4" and "--v=4".
func cleanArg(s string) (string, error) {
	s = strings.TrimLeft(s, "-")
	if s == "" || strings.HasPrefix(s, "=") {
		return "", errors.New("want NAME=VALUE as the component's own flag, without dashes")
	}
	return s, nil
}

// String names the kind for a message.
func (k Kind) String() string {
	switch k {
	case KindBool:
		return "true or false"
	case KindNumber:
		return "a number"
	case KindList, KindArgs:
		return "a list"
	default:
		return "one text"
	}
}
