package prismasim

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"strings"
)

// Prefixes of the ids, as Prisma writes them. Grants, refresh tokens and backups
// have none that is public: theirs are the simulator's own.
const (
	prefixWorkspace    = "wksp_"
	prefixProject      = "proj_"
	prefixDatabase     = "db_"
	prefixConnection   = "con_"
	prefixIntegration  = "itgr_"
	prefixServiceToken = "tkn_"
	prefixBackup       = "bak_"
	prefixGrant        = "grant_"
	prefixRefreshToken = "rt_"
)

// newID returns prefix and 25 random lower-case letters and digits, the form of
// the ids that Prisma shows; it is also a Postgres identifier without quoting.
func newID(prefix string) string {
	return prefix + "c" + strings.ToLower(rand.Text())[:24]
}

// canonicalID puts prefix before id unless it is there: the API takes both.
func canonicalID(prefix, id string) string {
	if id == "" || strings.HasPrefix(id, prefix) {
		return id
	}
	return prefix + id
}

// newSecret returns 256 random bits in base64url.
func newSecret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b)
}

// hashSecret returns the form in which secrets are kept and looked up.
func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// chance is true at the given rate: 0 never, 1 always.
func chance(rate float64) bool {
	if rate <= 0 {
		return false
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return float64(binary.NativeEndian.Uint64(b[:])>>11)/(1<<53) < rate
}
