package edge

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// maxGood bounds what an auth remembers.
const maxGood = 1000

// auth checks names and passwords. The good ones are remembered by digest: bcrypt takes tens of milliseconds, and a browser sends them always.
type auth struct {
	conf *BasicAuth
	mu   sync.Mutex
	good map[[sha256.Size]byte]bool // guarded by mu
}

func knownHash(hash string) bool {
	for _, prefix := range []string{"$2a$", "$2b$", "$2y$", "{SHA}", "$apr1$"} {
		if strings.HasPrefix(hash, prefix) {
			return true
		}
	}
	return false
}

func (a *auth) check(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	hash, known := a.conf.Users[user]
	if !ok || !known {
		return false
	}
	digest := sha256.Sum256([]byte(user + "\x00" + password))
	a.mu.Lock()
	good := a.good[digest]
	a.mu.Unlock()
	if good {
		return true
	}
	if !checkPassword(password, hash) {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.good) >= maxGood {
		clear(a.good)
	}
	a.good[digest] = true
	return true
}

func checkPassword(password, hash string) bool {
	same := func(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
	switch {
	case strings.HasPrefix(hash, "{SHA}"):
		sum := sha1.Sum([]byte(password))
		return same(base64.StdEncoding.EncodeToString(sum[:]), hash[len("{SHA}"):])
	case strings.HasPrefix(hash, "$apr1$"):
		salt, _, _ := strings.Cut(hash[len("$apr1$"):], "$")
		return same(apr1(password, salt), hash)
	}
	return bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
}

// apr1 is Apache's MD5 hash, the one htpasswd and openssl passwd -apr1 write.
func apr1(password, salt string) string {
	if len(salt) > 8 {
		salt = salt[:8]
	}
	pw := []byte(password)
	alt := md5.Sum([]byte(password + salt + password))
	h := []byte(password + "$apr1$" + salt)
	for i := len(pw); i > 0; i -= len(alt) {
		h = append(h, alt[:min(i, len(alt))]...)
	}
	for i := len(pw); i > 0; i >>= 1 {
		if i&1 == 1 {
			h = append(h, 0)
		} else {
			h = append(h, pw[0])
		}
	}
	sum := md5.Sum(h)
	for i := range 1000 {
		h = h[:0]
		h = appendIf(h, i%2 == 1, pw, sum[:])
		if i%3 != 0 {
			h = append(h, salt...)
		}
		if i%7 != 0 {
			h = append(h, pw...)
		}
		h = appendIf(h, i%2 == 0, pw, sum[:])
		sum = md5.Sum(h)
	}
	return "$apr1$" + salt + "$" + apr1Text(sum)
}

func appendIf(h []byte, cond bool, yes, no []byte) []byte {
	if cond {
		return append(h, yes...)
	}
	return append(h, no...)
}

// apr1Text is the order of bytes and the alphabet of crypt(3).
func apr1Text(sum [md5.Size]byte) string {
	const alphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	var out strings.Builder
	write := func(v uint, n int) {
		for range n {
			out.WriteByte(alphabet[v&63])
			v >>= 6
		}
	}
	for _, t := range [][3]int{{0, 6, 12}, {1, 7, 13}, {2, 8, 14}, {3, 9, 15}, {4, 10, 5}} {
		write(uint(sum[t[0]])<<16|uint(sum[t[1]])<<8|uint(sum[t[2]]), 4)
	}
	write(uint(sum[11]), 2)
	return out.String()
}
