package password

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"skiff/pkg/token"
)

// Hashing of passwords: slow enough to spoil guessing should the Secret leak,
// quick enough for a Raspberry Pi whose fleet joins at once. skiff's own
// passwords have 128 random bits and could not be guessed anyway.
const (
	scheme     = "pbkdf2-sha256"
	iterations = 100_000
	saltSize   = 16
)

var encoding = base64.RawStdEncoding

// hash returns "pbkdf2-sha256$iterations$salt$key".
func hash(p token.Secret) (string, error) {
	salt := make([]byte, saltSize)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("hash node password: %w", err)
	}
	key, err := pbkdf2.Key(sha256.New, p.Reveal(), salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("hash node password: %w", err)
	}
	return strings.Join([]string{scheme, strconv.Itoa(iterations), encoding.EncodeToString(salt), encoding.EncodeToString(key)}, "$"), nil
}

var errHash = errors.New("the hash of the node password is damaged")

// matches reports whether text is the hash of the password.
func matches(text string, p token.Secret) (bool, error) {
	part := strings.Split(text, "$")
	if len(part) != 4 || part[0] != scheme {
		return false, errHash
	}
	rounds, err := strconv.Atoi(part[1])
	if err != nil || rounds < 1 || rounds > 100*iterations {
		return false, errHash
	}
	salt, err1 := encoding.DecodeString(part[2])
	want, err2 := encoding.DecodeString(part[3])
	if err1 != nil || err2 != nil || len(want) != sha256.Size {
		return false, errHash
	}
	have, err := pbkdf2.Key(sha256.New, p.Reveal(), salt, rounds, sha256.Size)
	if err != nil {
		return false, fmt.Errorf("hash node password: %w", err)
	}
	return subtle.ConstantTimeCompare(have, want) == 1, nil
}
