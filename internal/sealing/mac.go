package sealing

import (
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrUnknownKey tells of a key that the keyset does not have: that a MAC was made with, or
// that a value was sealed with.
var ErrUnknownKey = errors.New("the keyset has no such key")

// ErrForged tells that a MAC is not the one of that message.
var ErrForged = errors.New("the message authentication code does not match")

// MAC authenticates a message under the newest fingerprint key, bound to the
// environment and to purpose. It returns 32 bytes and the id of the key, which
// CheckMAC needs. No MAC equals a fingerprint of anything.
func (k *Keyset) MAC(purpose string, message ...[]byte) (sum []byte, key uint32, err error) {
	sum, err = k.mac(k.primary, purpose, message)
	return sum, k.primary, err
}

// CheckMAC returns nil if sum is the MAC of that message under that key, and
// otherwise ErrForged or ErrUnknownKey.
func (k *Keyset) CheckMAC(sum []byte, key uint32, purpose string, message ...[]byte) error {
	if _, known := k.fingerprints.PRFs[key]; !known {
		return ErrUnknownKey
	}
	want, err := k.mac(key, purpose, message)
	if err != nil {
		return err
	}
	if !hmac.Equal(want, sum) {
		return ErrForged
	}
	return nil
}

// FingerprintKey is the id of the key that Fingerprint uses.
func (k *Keyset) FingerprintKey() uint32 { return k.primary }

func (k *Keyset) mac(key uint32, purpose string, message [][]byte) ([]byte, error) {
	// Three fields and more, where a fingerprint has two: pack keeps them apart.
	packed := pack("mac", k.environment, purpose)
	for _, field := range message {
		packed = binary.AppendUvarint(packed, uint64(len(field)))
		packed = append(packed, field...)
	}
	sum, err := k.fingerprints.PRFs[key].ComputePRF(packed, FingerprintSize)
	if err != nil {
		return nil, fmt.Errorf("authenticate %s: %w", purpose, err)
	}
	return sum, nil
}
