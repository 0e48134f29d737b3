package admin

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"

	"github.com/connect-prisma/server/internal/fault"
)

// The cost of a new hash: OWASP's argon2id setting with the least memory.
const (
	hashMemory  = 19 * 1024 // KiB
	hashPasses  = 2
	hashLanes   = 1
	hashSalt    = 16 // bytes
	hashLength  = 32 // bytes
	minPassword = 12 // bytes
)

// The most that a stored hash may ask for, so that a row which somebody wrote
// into the table can't stop the process.
const (
	limitMemory = 256 * 1024 // KiB
	limitPasses = 16
	limitLanes  = 16
)

var errMalformedHash = errors.New("not an argon2id hash in PHC form")

// HashPassword returns the argon2id hash of a password of 12 to 1024 bytes, in
// PHC form: "$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>", both base64 without
// padding. It takes about 40 ms and 19 MiB. fault.InvalidValue for a password
// that is too short or too long.
func HashPassword(password string) (string, error) {
	if len(password) < minPassword || len(password) > maxPassword {
		return "", fault.New(fault.InvalidValue, "A password needs 12 to 1024 bytes.", nil)
	}
	salt := make([]byte, hashSalt)
	_, _ = rand.Read(salt) // never fails: it ends the program instead
	sum := argon2.IDKey([]byte(password), salt, hashPasses, hashMemory, hashLanes, hashLength)
	encode := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argon2.Version, hashMemory, hashPasses, hashLanes, encode(salt), encode(sum)), nil
}

// CheckPassword reports whether a hash was made from that password; it compares in
// constant time. The error tells that the hash can't
// be read; it holds nothing of it.
func CheckPassword(hash, password string) (bool, error) {
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return false, errMalformedHash
	}
	var memory, passes uint32
	var lanes uint8
	const cost = "m=%d,t=%d,p=%d"
	if _, err := fmt.Sscanf(parts[3], cost, &memory, &passes, &lanes); err != nil ||
		fmt.Sprintf(cost, memory, passes, lanes) != parts[3] { // Sscanf stops early without a word
		return false, errMalformedHash
	}
	salt, saltErr := base64.RawStdEncoding.Strict().DecodeString(parts[4])
	want, wantErr := base64.RawStdEncoding.Strict().DecodeString(parts[5])
	switch {
	case saltErr != nil || wantErr != nil,
		len(salt) < 8 || len(salt) > 64 || len(want) < 16 || len(want) > 64,
		memory < 8 || memory > limitMemory,
		passes < 1 || passes > limitPasses,
		lanes < 1 || lanes > limitLanes:
		return false, errMalformedHash
	}
	got := argon2.IDKey([]byte(password), salt, passes, memory, lanes, uint32(len(want))) //nolint:gosec // G115: at most 64, checked above
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}
