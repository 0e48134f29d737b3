package sealing

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Sizes of a cookie key pair in bytes: HMAC-SHA-256 and AES-256.
const (
	CookieHashKeySize  = 64
	CookieBlockKeySize = 32
)

// CookieKeys is one pair for gorilla/securecookie.
type CookieKeys struct{ Hash, Block []byte }

// GenerateCookieKeys returns a new pair in the form that ParseCookieKeys reads.
// It is a secret.
func GenerateCookieKeys() string {
	pair := make([]byte, CookieHashKeySize+CookieBlockKeySize)
	_, _ = rand.Read(pair) // never fails: it ends the program instead
	return base64.StdEncoding.EncodeToString(pair)
}

// ParseCookieKeys reads pairs separated by commas, the newest first: the first
// signs, all of them are accepted. It refuses no pair at all, a wrong length,
// keys of equal bytes, and a pair that is given twice: securecookie would work
// with a nil block key and leave cookies readable. Its errors never quote keys.
func ParseCookieKeys(text string) ([]CookieKeys, error) {
	var pairs []CookieKeys
	for i, part := range strings.Split(text, ",") {
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("cookie keys: pair %d is not base64; `secrets generate` prints one", i+1)
		}
		if len(raw) != CookieHashKeySize+CookieBlockKeySize {
			return nil, fmt.Errorf("cookie keys: pair %d has %d bytes instead of %d", i+1, len(raw), CookieHashKeySize+CookieBlockKeySize)
		}
		pair := CookieKeys{Hash: raw[:CookieHashKeySize], Block: raw[CookieHashKeySize:]}
		if weak(raw) || bytes.Equal(pair.Hash[:CookieBlockKeySize], pair.Block) {
			return nil, fmt.Errorf("cookie keys: pair %d is not random", i+1)
		}
		for _, other := range pairs {
			if bytes.Equal(other.Hash, pair.Hash) || bytes.Equal(other.Block, pair.Block) {
				return nil, fmt.Errorf("cookie keys: pair %d is given twice", i+1)
			}
		}
		pairs = append(pairs, pair)
	}
	if len(pairs) == 0 {
		return nil, errors.New("cookie keys: none given")
	}
	return pairs, nil
}
