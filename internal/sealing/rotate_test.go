package sealing_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/sealing"
)

func must(t *testing.T) func(string, error) string {
	t.Helper()
	return func(text string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
}

// A keyset through a whole rotation: at each step, whoever is a step behind or ahead reads
// what is written.
func TestRotation(t *testing.T) {
	t.Parallel()
	place := sealing.Place{Table: "connections", Column: "refresh_token", Tenant: "t", ID: "c", Generation: 1}
	before, text := newKeyset(t, "production")
	old := before.SealKeys()[0]
	_, err := sealing.PromoteKeys(text)
	if !errors.Is(err, sealing.ErrNoKeysWait) {
		t.Errorf("PromoteKeys() with nothing to promote: %v", err)
	}
	added := must(t)(sealing.AddKeys(text))
	if _, err := sealing.AddKeys(added); !errors.Is(err, sealing.ErrKeysWait) {
		t.Errorf("AddKeys() twice: %v", err)
	}
	promoted := must(t)(sealing.PromoteKeys(added))
	retired := must(t)(sealing.RetireKey(promoted, old))

	waiting, current, after := parse(t, added, "production"), parse(t, promoted, "production"), parse(t, retired, "production")
	fresh := current.SealKeys()[0]
	if !slices.Equal(waiting.SealKeys(), []uint32{old, fresh}) || !slices.Equal(current.SealKeys(), []uint32{fresh, old}) ||
		!slices.Equal(after.SealKeys(), []uint32{fresh}) {
		t.Errorf("keys %v, %v, %v", waiting.SealKeys(), current.SealKeys(), after.SealKeys())
	}
	for name, tc := range map[string]struct {
		from *sealing.Keyset
		to   []*sealing.Keyset
	}{
		"before any step": {before, []*sealing.Keyset{before, waiting, current}},
		"once added":      {waiting, []*sealing.Keyset{before, waiting, current}},
		"once promoted":   {current, []*sealing.Keyset{waiting, current, after}},
		"once retired":    {after, []*sealing.Keyset{waiting, current, after}},
	} {
		sealed, err := tc.from.Seal([]byte("secret"), place)
		if err != nil {
			t.Fatal(err)
		}
		if key, ok := sealing.KeyOf(sealed); !ok || key != tc.from.SealKeys()[0] || !bytes.HasPrefix(sealed, tc.from.SealPrefix()) {
			t.Errorf("%s: sealed with %d", name, key)
		}
		fingerprint, err := tc.from.Fingerprint("api key", "abc")
		if err != nil {
			t.Fatal(err)
		}
		mac, key, err := tc.from.MAC("ledger", []byte("row"))
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range tc.to {
			if plain, err := k.Open(sealed, place); err != nil || string(plain) != "secret" {
				t.Errorf("%s: a value can't be opened: %v", name, err)
			}
			all, err := k.Fingerprints("api key", "abc")
			if err != nil || !slices.ContainsFunc(all, func(f []byte) bool { return bytes.Equal(f, fingerprint) }) {
				t.Errorf("%s: a fingerprint is not recognised, %v", name, err)
			}
			if err := k.CheckMAC(mac, key, "ledger", []byte("row")); err != nil {
				t.Errorf("%s: a MAC: %v", name, err)
			}
		}
	}

	sealed, err := current.Seal([]byte("secret"), place)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := before.Open(sealed, place); !errors.Is(err, sealing.ErrNotOpened) || !errors.Is(err, sealing.ErrUnknownKey) {
		t.Errorf("without the key: %v, want ErrUnknownKey", err)
	}
	place.Generation++
	if _, err := current.Open(sealed, place); !errors.Is(err, sealing.ErrNotOpened) || errors.Is(err, sealing.ErrUnknownKey) {
		t.Errorf("elsewhere: %v, want ErrNotOpened alone", err)
	}
	// API keys of all times: their fingerprints can't be made anew.
	if n := len(after.FingerprintKeys()); n != 2 {
		t.Errorf("%d fingerprint keys after a rotation, want both", n)
	}
	again := must(t)(sealing.PromoteKeys(must(t)(sealing.AddKeys(retired))))
	if n := len(parse(t, again, "production").FingerprintKeys()); n != 3 {
		t.Errorf("%d fingerprint keys after two rotations", n)
	}
}

func TestRotationRefuses(t *testing.T) {
	t.Parallel()
	k, text := newKeyset(t, "production")
	if _, err := sealing.RetireKey(text, k.SealKeys()[0]); err == nil {
		t.Error("the key that is written with was retired")
	}
	if _, err := sealing.RetireKey(text, k.SealKeys()[0]+1); !errors.Is(err, sealing.ErrUnknownKey) {
		t.Errorf("a key that is not there: %v", err)
	}
	for _, bad := range []string{"", "*", text[:len(text)/2]} {
		for name, do := range map[string]func(string) (string, error){
			"AddKeys": sealing.AddKeys, "PromoteKeys": sealing.PromoteKeys,
			"RetireKey": func(text string) (string, error) { return sealing.RetireKey(text, 1) },
		} {
			if _, err := do(bad); err == nil || bad != "" && strings.Contains(err.Error(), bad) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for _, short := range [][]byte{nil, {1}, {2, 0, 0, 0, 1, 9}} {
		if _, ok := sealing.KeyOf(short); ok {
			t.Errorf("%v is a sealed value", short)
		}
	}
}
