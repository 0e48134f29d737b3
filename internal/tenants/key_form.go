package tenants

import (
	"crypto/rand"
	"encoding/binary"
	"hash/crc32"
	"strings"
)

// An API key is "cpk_" + 52 characters of base32 (256 random bits and 4 spare
// ones) + "_" + 7 characters of base32 with a CRC-32 of what stands before. The
// checksum tells a mistyped key from a wrong one without asking the database,
// and lets a leak scanner be sure.
const (
	apiKeyPrefix  = "cpk_"
	apiKeyBody    = 52
	apiKeySum     = 7
	apiKeyLength  = len(apiKeyPrefix) + apiKeyBody + 1 + apiKeySum
	apiKeyHint    = len(apiKeyPrefix) + 4
	apiKeyPurpose = "api key"
)

// newAPIKey returns a new secret key.
func newAPIKey() string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails: it ends the program instead
	body := apiKeyPrefix + idEncoding().EncodeToString(raw[:])
	return body + "_" + keySum(body)
}

func keySum(body string) string {
	sum := crc32.ChecksumIEEE([]byte(body))
	return idEncoding().EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}

// IsAPIKey reports whether text has the form of an API key and the right checksum: a
// leak scanner may be sure of it, and a mistyped key fails it. Whether the key is known
// is another question, which Authenticate answers.
func IsAPIKey(key string) bool {
	if len(key) != apiKeyLength || !strings.HasPrefix(key, apiKeyPrefix) || key[apiKeyLength-apiKeySum-1] != '_' {
		return false
	}
	body, sum := key[:apiKeyLength-apiKeySum-1], key[apiKeyLength-apiKeySum:]
	return keySum(body) == sum
}
