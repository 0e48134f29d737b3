package pgtest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

// verifier is what Postgres keeps of a password, with one round of hashing instead of
// 4096. The rounds slow down guessing, and these passwords are 128 random bits; but both
// sides hash for every connection, which takes three quarters of the time of connecting
// under the race detector, and tests connect thousands of times.
//
// The password must be ASCII. RFC 5802, section 3, with the form of RFC 5803.
func verifier(password string) string {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	salted := mac([]byte(password), string(salt)+"\x00\x00\x00\x01")
	stored := sha256.Sum256(mac(salted, "Client Key"))
	text := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$1:%s$%s:%s", text(salt), text(stored[:]), text(mac(salted, "Server Key")))
}

func mac(key []byte, message string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(message))
	return h.Sum(nil)
}
