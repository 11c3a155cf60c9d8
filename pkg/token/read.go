package token

import (
	"errors"
	"fmt"
	"os"
)

// ErrNone is returned by Read when neither text nor file are given.
var ErrNone = errors.New("no token given")

// Read reads a token as a person gives it: as text, or as the name of a file
// it is in. Option is the option's name without dashes, for the errors.
func Read(option, text, file string) (Token, error) {
	switch {
	case text == "" && file == "":
		return Token{}, ErrNone
	case text != "" && file != "":
		return Token{}, fmt.Errorf("--%s and --%s-file are both given, want one of them", option, option)
	case text != "":
		t, err := Parse(text)
		if err != nil {
			return Token{}, fmt.Errorf("invalid --%s: %w", option, err)
		}
		return t, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return Token{}, fmt.Errorf("invalid --%s-file: %w", option, err)
	}
	t, err := Parse(string(data))
	if err != nil {
		return Token{}, fmt.Errorf("invalid --%s-file %s: %w", option, file, err)
	}
	return t, nil
}
