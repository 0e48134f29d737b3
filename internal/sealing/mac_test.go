package sealing_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"testing"

	"github.com/connect-prisma/server/internal/sealing"
)

// rotated returns the keyset of text with the fingerprint key of another one added and
// made the newest.
func rotated(t *testing.T, text string) string {
	t.Helper()
	type keys struct {
		Primary uint32            `json:"primaryKeyId"`
		Key     []json.RawMessage `json:"key"`
	}
	open := func(text string) (map[string]json.RawMessage, keys) {
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		var parts map[string]json.RawMessage
		var fingerprint keys
		if err := errors.Join(json.Unmarshal(raw, &parts), json.Unmarshal(parts["fingerprint"], &fingerprint)); err != nil {
			t.Fatal(err)
		}
		return parts, fingerprint
	}
	parts, old := open(text)
	other, err := sealing.Generate()
	if err != nil {
		t.Fatal(err)
	}
	_, newer := open(other)
	newer.Key = append(newer.Key, old.Key...)
	encoded, err := json.Marshal(newer)
	if err != nil {
		t.Fatal(err)
	}
	parts["fingerprint"] = encoded
	all, err := json.Marshal(parts)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(all)
}

func TestMAC(t *testing.T) {
	t.Parallel()
	text, err := sealing.Generate()
	if err != nil {
		t.Fatal(err)
	}
	open := func(text, environment string) *sealing.Keyset {
		keyset, err := sealing.Parse(text, environment)
		if err != nil {
			t.Fatal(err)
		}
		return keyset
	}
	keyset := open(text, "production")
	message := [][]byte{[]byte("one"), []byte("two")}
	sum, key, err := keyset.MAC("ledger", message...)
	if err != nil || len(sum) != 32 || key != keyset.FingerprintKey() {
		t.Fatalf("MAC() = %d bytes under key %d, %v", len(sum), key, err)
	}
	if err := keyset.CheckMAC(sum, key, "ledger", message...); err != nil {
		t.Errorf("CheckMAC() = %v", err)
	}
	newer := open(rotated(t, text), "production")
	if err := newer.CheckMAC(sum, key, "ledger", message...); err != nil || newer.FingerprintKey() == key {
		t.Errorf("CheckMAC() after a rotation = %v, new key = %t", err, newer.FingerprintKey() != key)
	}

	damaged := bytes.Clone(sum)
	damaged[31] ^= 1
	forged := map[string]error{
		"another purpose":     keyset.CheckMAC(sum, key, "audit", message...),
		"another environment": open(text, "staging").CheckMAC(sum, key, "ledger", message...),
		"another order":       keyset.CheckMAC(sum, key, "ledger", message[1], message[0]),
		"fields joined":       keyset.CheckMAC(sum, key, "ledger", []byte("onetwo")),
		"another cut":         keyset.CheckMAC(sum, key, "ledger", []byte("onet"), []byte("wo")),
		"a field more":        keyset.CheckMAC(sum, key, "ledger", append(message, nil)...),
		"a damaged sum":       keyset.CheckMAC(damaged, key, "ledger", message...),
		"half a sum":          keyset.CheckMAC(sum[:16], key, "ledger", message...),
		"no sum":              keyset.CheckMAC(nil, key, "ledger", message...),
		"the other key":       newer.CheckMAC(sum, newer.FingerprintKey(), "ledger", message...),
	}
	for name, err := range forged {
		if !errors.Is(err, sealing.ErrForged) {
			t.Errorf("%s: %v, want ErrForged", name, err)
		}
	}
	if err := keyset.CheckMAC(sum, newer.FingerprintKey(), "ledger", message...); !errors.Is(err, sealing.ErrUnknownKey) {
		t.Errorf("a key that is not there: %v, want ErrUnknownKey", err)
	}
	if fingerprint, err := keyset.Fingerprint("ledger", "one"); err != nil || bytes.Equal(fingerprint, sum) {
		t.Errorf("a fingerprint equals a MAC; %v", err)
	}
}
