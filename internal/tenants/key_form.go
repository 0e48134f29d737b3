package tenants

import (
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"hash/crc32"
	"strings"
)

// An API key is "cpk_" + 52 characters of base32 (192 random bits, 64 of a code that only
// the keyset makes out of those, and 4 spare ones) + "_" + 7 characters of base32 with a
// CRC-32 of what stands before. The checksum tells a mistyped key from a wrong one without
// asking the database, and lets a leak scanner be sure. The code tells a guess from a key
// that was once issued.
const (
	apiKeyPrefix  = "cpk_"
	apiKeyBody    = 52
	apiKeyRandom  = 24 // bytes of the body that are random; the rest are the code
	apiKeySum     = 7
	apiKeyLength  = len(apiKeyPrefix) + apiKeyBody + 1 + apiKeySum
	apiKeyHint    = len(apiKeyPrefix) + 4
	apiKeyPurpose = "api key"
	codePurpose   = "issued here"
)

// newAPIKey returns a new secret key and the fingerprint to find it by.
func (s *Store) newAPIKey() (secret string, hash []byte, err error) {
	var raw [32]byte
	_, _ = rand.Read(raw[:apiKeyRandom]) // never fails: it ends the program instead
	code, err := s.keyset.Fingerprint(codePurpose, string(raw[:apiKeyRandom]))
	if err != nil {
		return "", nil, err
	}
	copy(raw[apiKeyRandom:], code)
	body := apiKeyPrefix + idEncoding().EncodeToString(raw[:])
	secret = body + "_" + keySum(body)
	hash, err = s.keyset.Fingerprint(apiKeyPurpose, secret)
	return secret, hash, err
}

// Issued reports, without asking the database, whether a key was made here: nobody else
// can make one of which that is said. It may have ended since. It is not said of keys
// that are older than the code in them.
func (s *Store) Issued(key string) bool {
	if !IsAPIKey(key) {
		return false
	}
	body := key[len(apiKeyPrefix) : len(apiKeyPrefix)+apiKeyBody]
	raw, err := idEncoding().DecodeString(body)
	if err != nil || idEncoding().EncodeToString(raw) != body { // the spare bits make no other key
		return false
	}
	codes, err := s.keyset.Fingerprints(codePurpose, string(raw[:apiKeyRandom]))
	if err != nil {
		return false
	}
	for _, code := range codes {
		if hmac.Equal(code[:len(raw)-apiKeyRandom], raw[apiKeyRandom:]) {
			return true
		}
	}
	return false
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
