// Package sealing encrypts what the database keeps secret and fingerprints what
// it must recognise but never know.
//
// A sealed value is bound to its place: environment, table, column, tenant, row
// and generation are its associated data, so a ciphertext that is moved to
// another row, column, tenant, generation or environment does not open.
//
// It rests on Tink. A ciphertext begins with 0x01 and the 4-byte id of its key,
// so the rows under an old key are found by prefix.
package sealing

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// FingerprintSize is the length of a fingerprint in bytes.
const FingerprintSize = 32

// Place is where a sealed value lives. Every field is part of what the value is
// bound to; Generation is 0 where a row has none.
type Place struct {
	Table, Column string
	Tenant, ID    string
	Generation    int64
}

// ErrNotOpened tells that a value could not be opened: another key, another
// place, or damage. Which of them is not knowable, unless it says that it was sealed with
// a key which is not there: then the error is an ErrUnknownKey too.
var ErrNotOpened = errors.New("sealed value can't be opened here")

// Keyset seals, opens and fingerprints. It is safe for concurrent use.
type Keyset struct {
	environment  string
	aead         tink.AEAD
	sealKeys     []uint32 // the primary first
	fingerprints *prf.Set
	primary      uint32
	older        []uint32
}

// encoded is the text form of a keyset: two Tink keysets in one JSON object,
// base64 around it so that it fits an environment variable.
type encoded struct {
	Seal        json.RawMessage `json:"seal"`
	Fingerprint json.RawMessage `json:"fingerprint"`
}

// Generate returns a new keyset with one AES-256-GCM and one HMAC-SHA-256 key,
// in the form that Parse reads. It is a secret.
func Generate() (string, error) {
	seal, err := generate(aead.AES256GCMKeyTemplate)
	if err != nil {
		return "", err
	}
	fingerprint, err := generate(prf.HMACSHA256PRFKeyTemplate)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(encoded{Seal: seal, Fingerprint: fingerprint})
	if err != nil {
		return "", fmt.Errorf("encode keyset: %w", err)
	}
	return base64.StdEncoding.EncodeToString(text), nil
}

// Parse reads a keyset made by Generate. environment becomes part of every
// place: a copy of the database under another name opens nothing.
//
// It refuses what Tink would take: an empty keyset, disabled primaries, and
// keys whose bytes are all zero. Its errors never quote the text.
func Parse(text, environment string) (*Keyset, error) {
	if environment == "" {
		return nil, errors.New("keyset: the environment has no name")
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil, errors.New("keyset: not base64; `secrets generate` prints one")
	}
	var both encoded
	if err := json.Unmarshal(raw, &both); err != nil || both.Seal == nil || both.Fingerprint == nil {
		return nil, errors.New("keyset: not one that `secrets generate` printed")
	}
	seen := make(map[string]bool)
	sealHandle, err := read(both.Seal, seen)
	if err != nil {
		return nil, err
	}
	fingerprintHandle, err := read(both.Fingerprint, seen)
	if err != nil {
		return nil, err
	}
	k := &Keyset{environment: environment}
	if k.aead, err = aead.New(sealHandle); err != nil {
		return nil, errors.New("keyset: the sealing keys are not AEAD keys")
	}
	if k.fingerprints, err = prf.NewPRFSet(fingerprintHandle); err != nil {
		return nil, errors.New("keyset: the fingerprint keys are not PRF keys")
	}
	k.sealKeys = keyIDs(sealHandle)
	ids := keyIDs(fingerprintHandle)
	k.primary, k.older = ids[0], ids[1:]
	return k, nil
}

// Seal encrypts plaintext for that place. An empty plaintext is refused: it
// would hide that a secret is missing.
func (k *Keyset) Seal(plaintext []byte, at Place) ([]byte, error) {
	if len(plaintext) == 0 {
		return nil, fmt.Errorf("seal %s.%s: nothing to seal", at.Table, at.Column)
	}
	sealed, err := k.aead.Encrypt(plaintext, k.bind(at))
	if err != nil {
		return nil, fmt.Errorf("seal %s.%s: %w", at.Table, at.Column, err)
	}
	return sealed, nil
}

// Open decrypts what Seal made for the same place; ErrNotOpened otherwise.
func (k *Keyset) Open(sealed []byte, at Place) ([]byte, error) {
	plaintext, err := k.aead.Decrypt(sealed, k.bind(at))
	if err != nil {
		if key, ok := KeyOf(sealed); ok && !slices.Contains(k.sealKeys, key) {
			return nil, fmt.Errorf("open %s.%s: %w: it was sealed with key %d: %w", at.Table, at.Column, ErrNotOpened, key, ErrUnknownKey)
		}
		return nil, fmt.Errorf("open %s.%s: %w", at.Table, at.Column, ErrNotOpened)
	}
	return plaintext, nil
}

// Fingerprint returns a keyed hash of secret under the newest key, 32 bytes.
// purpose keeps the fingerprints of different kinds of secret apart.
func (k *Keyset) Fingerprint(purpose, secret string) ([]byte, error) {
	return k.fingerprint(k.primary, purpose, secret)
}

// Fingerprints returns the fingerprints of secret under every key of the
// keyset, the newest first: what to look up while keys are being rotated.
func (k *Keyset) Fingerprints(purpose, secret string) ([][]byte, error) {
	all := make([][]byte, 0, 1+len(k.older))
	for _, id := range append([]uint32{k.primary}, k.older...) {
		one, err := k.fingerprint(id, purpose, secret)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

func (k *Keyset) fingerprint(key uint32, purpose, secret string) ([]byte, error) {
	sum, err := k.fingerprints.PRFs[key].ComputePRF(pack(purpose, secret), FingerprintSize)
	if err != nil {
		return nil, fmt.Errorf("fingerprint %s: %w", purpose, err)
	}
	return sum, nil
}

func (k *Keyset) bind(at Place) []byte {
	return binary.BigEndian.AppendUint64(
		pack(k.environment, at.Table, at.Column, at.Tenant, at.ID), uint64(at.Generation)) //nolint:gosec // a counter, never negative
}

// pack joins fields with their lengths, so that no two lists give the same bytes.
func pack(fields ...string) []byte {
	var b []byte
	for _, f := range fields {
		b = binary.AppendUvarint(b, uint64(len(f)))
		b = append(b, f...)
	}
	return b
}

// minKeyBytes is the least size of a key: AES-256, HMAC-SHA-256.
const minKeyBytes = 32

// read parses one Tink keyset and refuses weak keys; seen collects the key bytes
// of both keysets, none of which may occur twice.
func read(raw json.RawMessage, seen map[string]bool) (*keyset.Handle, error) {
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(raw)))
	if err != nil {
		return nil, errors.New("keyset: can't be read as a Tink keyset")
	}
	for _, key := range insecurecleartextkeyset.KeysetMaterial(handle).GetKey() {
		value := key.GetKeyData().GetValue()
		if weak(value) {
			return nil, errors.New("keyset: a key's bytes are all the same")
		}
		if len(value) < minKeyBytes {
			return nil, errors.New("keyset: a key is shorter than 256 bits")
		}
		// Tink's serialized keys end with the key itself.
		tail := string(value[len(value)-minKeyBytes:])
		if seen[tail] {
			return nil, errors.New("keyset: two keys are equal")
		}
		seen[tail] = true
	}
	return handle, nil
}

// weak reports whether a serialized Tink key holds a run of 16 equal bytes: key
// material is at its end, and chance makes such a run once in 2^115.
func weak(serialized []byte) bool {
	run := 1
	for i := 1; i < len(serialized); i++ {
		if serialized[i] != serialized[i-1] {
			run = 1
			continue
		}
		if run++; run >= 16 {
			return true
		}
	}
	return false
}
