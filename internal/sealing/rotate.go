package sealing

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
)

// Keys are replaced in steps, because several processes work with the same ones: what the
// first of them writes with a new key the others must be able to read.
//
//	AddKeys      the new keys are read with, and written with by nobody
//	PromoteKeys  written with
//	RetireKey    the old sealing key is gone, once nothing is sealed with it
//
// A fingerprint can't be made anew without the secret, so fingerprint keys are not retired:
// MACs and fingerprints of before are compared under them for good.

// ErrKeysWait tells that the newest keys of a keyset are not written with yet.
var ErrKeysWait = errors.New("the keyset's newest keys are not written with yet; promote them first")

// ErrNoKeysWait tells that there are no keys to promote.
var ErrNoKeysWait = errors.New("the keyset's newest keys are written with already; add new ones first")

// AddKeys returns the keyset with a new sealing and a new fingerprint key that nothing is
// written with; ErrKeysWait if it has such already. Errors never quote the text.
func AddKeys(text string) (string, error) {
	return edit(text, func(m *keyset.Manager, newest, primary uint32, template *tinkpb.KeyTemplate) error {
		if newest != primary {
			return ErrKeysWait
		}
		if _, err := m.Add(template); err != nil {
			return fmt.Errorf("add a key: %w", err)
		}
		return nil
	})
}

// PromoteKeys returns the keyset that writes with its newest keys; ErrNoKeysWait if it does.
func PromoteKeys(text string) (string, error) {
	return edit(text, func(m *keyset.Manager, newest, primary uint32, _ *tinkpb.KeyTemplate) error {
		if newest == primary {
			return ErrNoKeysWait
		}
		return m.SetPrimary(newest)
	})
}

// RetireKey returns the keyset without that sealing key: what is sealed with it can't be
// opened any more. The key that is written with is refused, and one that is not there.
func RetireKey(text string, key uint32) (string, error) {
	k, err := Parse(text, "any")
	if err != nil {
		return "", err
	}
	switch place := slices.Index(k.SealKeys(), key); {
	case place < 0:
		return "", ErrUnknownKey
	case place == 0:
		return "", errors.New("this key is written with; promote another one first")
	}
	first := true
	return edit(text, func(m *keyset.Manager, _, _ uint32, _ *tinkpb.KeyTemplate) error {
		if !first {
			return nil // the fingerprint keys stay
		}
		first = false
		return m.Delete(key)
	})
}

// edit changes both keysets of a text, the sealing keys first, and checks the result.
func edit(text string, change func(m *keyset.Manager, newest, primary uint32, template *tinkpb.KeyTemplate) error) (string, error) {
	if _, err := Parse(text, "any"); err != nil {
		return "", err
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return "", errors.New("keyset: not base64")
	}
	var both encoded
	if err := json.Unmarshal(raw, &both); err != nil {
		return "", errors.New("keyset: not JSON")
	}
	for _, part := range []struct {
		keys     *json.RawMessage
		template *tinkpb.KeyTemplate
	}{{&both.Seal, aead.AES256GCMKeyTemplate()}, {&both.Fingerprint, prf.HMACSHA256PRFKeyTemplate()}} {
		handle, err := read(*part.keys, map[string]bool{})
		if err != nil {
			return "", err
		}
		ids := handle.KeysetInfo().GetKeyInfo()
		manager := keyset.NewManagerFromHandle(handle)
		if err := change(manager, ids[len(ids)-1].GetKeyId(), handle.KeysetInfo().GetPrimaryKeyId(), part.template); err != nil {
			return "", err
		}
		if handle, err = manager.Handle(); err != nil {
			return "", fmt.Errorf("keyset: %w", err)
		}
		if *part.keys, err = write(handle); err != nil {
			return "", err
		}
	}
	changed, err := json.Marshal(both)
	if err != nil {
		return "", fmt.Errorf("encode keyset: %w", err)
	}
	text = base64.StdEncoding.EncodeToString(changed)
	_, err = Parse(text, "any")
	return text, err
}

// SealKeys are the ids of the sealing keys, the one that is written with first, then the
// newest. They are not secret: every sealed value bears one.
func (k *Keyset) SealKeys() []uint32 { return slices.Clone(k.sealKeys) }

// FingerprintKeys are the ids of the fingerprint keys, likewise.
func (k *Keyset) FingerprintKeys() []uint32 { return append([]uint32{k.primary}, k.older...) }

// prefixSize is the length of what every sealed value begins with.
const prefixSize = 5

// SealPrefix is what values begin with that Seal makes.
func (k *Keyset) SealPrefix() []byte {
	return binary.BigEndian.AppendUint32([]byte{1}, k.sealKeys[0])
}

// KeyOf returns the id of the key that a value was sealed with, if it is a sealed value.
func KeyOf(sealed []byte) (key uint32, ok bool) {
	if len(sealed) < prefixSize || sealed[0] != 1 {
		return 0, false
	}
	return binary.BigEndian.Uint32(sealed[1:prefixSize]), true
}

// keyIDs are the ids in a keyset, the primary first, then the newest.
func keyIDs(handle *keyset.Handle) []uint32 {
	info := handle.KeysetInfo()
	ids := []uint32{info.GetPrimaryKeyId()}
	for _, key := range slices.Backward(info.GetKeyInfo()) {
		if key.GetKeyId() != ids[0] {
			ids = append(ids, key.GetKeyId())
		}
	}
	return ids
}
