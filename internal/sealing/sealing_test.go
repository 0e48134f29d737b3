package sealing_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/sealing"
)

func newKeyset(t *testing.T, environment string) (*sealing.Keyset, string) {
	t.Helper()
	text, err := sealing.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text, environment), text
}

func parse(t *testing.T, text, environment string) *sealing.Keyset {
	t.Helper()
	k, err := sealing.Parse(text, environment)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestASealedValueOpensOnlyWhereItWasSealed(t *testing.T) {
	t.Parallel()

	k, text := newKeyset(t, "production")
	home := sealing.Place{Table: "connections", Column: "refresh_token", Tenant: "t1", ID: "c1", Generation: 7}
	sealed, err := k.Seal([]byte("secret"), home)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Open(sealed, home); err != nil || string(got) != "secret" {
		t.Fatalf("Open() = %q, %v", got, err)
	}
	if bytes.Contains(sealed, []byte("secret")) {
		t.Error("the ciphertext shows the plaintext")
	}

	moved := map[string]sealing.Place{
		"table":      {Table: "tenants", Column: "refresh_token", Tenant: "t1", ID: "c1", Generation: 7},
		"column":     {Table: "connections", Column: "access_token", Tenant: "t1", ID: "c1", Generation: 7},
		"tenant":     {Table: "connections", Column: "refresh_token", Tenant: "t2", ID: "c1", Generation: 7},
		"row":        {Table: "connections", Column: "refresh_token", Tenant: "t1", ID: "c2", Generation: 7},
		"generation": {Table: "connections", Column: "refresh_token", Tenant: "t1", ID: "c1", Generation: 8},
		"boundary":   {Table: "connection", Column: "srefresh_token", Tenant: "t1", ID: "c1", Generation: 7},
	}
	for name, place := range moved {
		if _, err := k.Open(sealed, place); !errors.Is(err, sealing.ErrNotOpened) {
			t.Errorf("opened after a move of its %s: %v", name, err)
		}
	}
	if _, err := parse(t, text, "staging").Open(sealed, home); !errors.Is(err, sealing.ErrNotOpened) {
		t.Error("opened in another environment")
	}
	other, _ := newKeyset(t, "production")
	if _, err := other.Open(sealed, home); !errors.Is(err, sealing.ErrNotOpened) {
		t.Error("opened under another keyset")
	}
	for i := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[i] ^= 1
		if _, err := k.Open(damaged, home); err == nil {
			t.Errorf("opened with byte %d flipped", i)
		}
	}
}

func TestFingerprints(t *testing.T) {
	t.Parallel()

	k, text := newKeyset(t, "production")
	one, err := k.Fingerprint("api key", "abc")
	if err != nil || len(one) != sealing.FingerprintSize {
		t.Fatalf("Fingerprint() = %d bytes, %v", len(one), err)
	}
	again, _ := parse(t, text, "production").Fingerprint("api key", "abc")
	if !bytes.Equal(one, again) {
		t.Error("the fingerprint changes between starts")
	}
	if other, _ := k.Fingerprint("link", "abc"); bytes.Equal(one, other) {
		t.Error("two purposes give one fingerprint")
	}
	if other, _ := k.Fingerprint("api key", "abd"); bytes.Equal(one, other) {
		t.Error("two secrets give one fingerprint")
	}
	all, err := k.Fingerprints("api key", "abc")
	if err != nil || len(all) != 1 || !bytes.Equal(all[0], one) {
		t.Errorf("Fingerprints() = %v, %v", all, err)
	}
}

func TestParseRefusesWeakKeysets(t *testing.T) {
	t.Parallel()

	_, good := newKeyset(t, "production")
	raw, _ := base64.StdEncoding.DecodeString(good)
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(raw, &parts); err != nil {
		t.Fatal(err)
	}
	encode := func(m map[string]json.RawMessage) string {
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(text)
	}
	// An AES-256-GCM key in Tink's format whose 32 bytes are zero.
	zero := base64.StdEncoding.EncodeToString(append([]byte{0x1a, 32}, make([]byte, 32)...))
	var seal struct {
		Primary uint32 `json:"primaryKeyId"`
		Key     []struct {
			Data map[string]string `json:"keyData"`
		} `json:"key"`
	}
	if err := json.Unmarshal(parts["seal"], &seal); err != nil {
		t.Fatal(err)
	}
	replaced := func(key string) string {
		return strings.Replace(string(parts["seal"]), seal.Key[0].Data["value"], key, 1)
	}
	short := base64.StdEncoding.EncodeToString(append([]byte{0x1a, 16}, "0123456789abcdef"...))
	// The sealing key with the bytes of the fingerprint key.
	fingerprint := seal
	fingerprint.Key = nil // a slice of its own
	if err := json.Unmarshal(parts["fingerprint"], &fingerprint); err != nil {
		t.Fatal(err)
	}
	other, err := base64.StdEncoding.DecodeString(fingerprint.Key[0].Data["value"])
	if err != nil {
		t.Fatal(err)
	}
	equal := base64.StdEncoding.EncodeToString(append([]byte{0x1a, 32}, other[len(other)-32:]...))

	tests := map[string]string{
		"empty":               "",
		"not base64":          "*",
		"not a keyset":        base64.StdEncoding.EncodeToString([]byte("{}")),
		"half of it":          encode(map[string]json.RawMessage{"seal": parts["seal"]}),
		"halves swapped":      encode(map[string]json.RawMessage{"seal": parts["fingerprint"], "fingerprint": parts["seal"]}),
		"no key inside":       encode(map[string]json.RawMessage{"seal": json.RawMessage(`{"primaryKeyId":1,"key":[]}`), "fingerprint": parts["fingerprint"]}),
		"all-zero key":        encode(map[string]json.RawMessage{"seal": json.RawMessage(replaced(zero)), "fingerprint": parts["fingerprint"]}),
		"128-bit key":         encode(map[string]json.RawMessage{"seal": json.RawMessage(replaced(short)), "fingerprint": parts["fingerprint"]}),
		"equal keys":          encode(map[string]json.RawMessage{"seal": json.RawMessage(replaced(equal)), "fingerprint": parts["fingerprint"]}),
		"a plain 32-byte key": base64.StdEncoding.EncodeToString(make([]byte, 32)),
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := sealing.Parse(text, "production"); err == nil {
				t.Error("accepted")
			} else if text != "" && strings.Contains(err.Error(), text) {
				t.Error("the error quotes the keyset")
			}
		})
	}
	if _, err := sealing.Parse(good, ""); err == nil {
		t.Error("accepted without an environment")
	}
}

func TestParseCookieKeys(t *testing.T) {
	t.Parallel()

	one, two := sealing.GenerateCookieKeys(), sealing.GenerateCookieKeys()
	pairs, err := sealing.ParseCookieKeys(one + ", " + two)
	if err != nil || len(pairs) != 2 {
		t.Fatalf("ParseCookieKeys() = %d pairs, %v", len(pairs), err)
	}
	equal := append(bytes.Repeat([]byte("0123456789abcdef"), 4), bytes.Repeat([]byte("0123456789abcdef"), 2)...)
	tests := map[string]string{
		"none":         "",
		"empty second": one + ",",
		"twice":        one + "," + one,
		"short":        base64.StdEncoding.EncodeToString([]byte("short")),
		"zero":         base64.StdEncoding.EncodeToString(make([]byte, 96)),
		"equal halves": base64.StdEncoding.EncodeToString(equal),
		"not base64":   "keys",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := sealing.ParseCookieKeys(text); err == nil {
				t.Error("accepted")
			}
		})
	}
}
