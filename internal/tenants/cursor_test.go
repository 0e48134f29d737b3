package tenants_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
)

// A cursor leads to where it was made for and nowhere else, whatever is done to it.
func TestCursorsCannotBeTamperedWith(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant, other := tenants.TenantID{UUID: uuid.New()}, tenants.TenantID{UUID: uuid.New()}
	last := tenants.ConnectionID{UUID: uuid.New()}
	const list = "s=active&u=ada&w="
	cursor, err := s.Cursor(tenant, list, last)
	ok(t, err)
	if got, err := s.ParseCursor(tenant, list, cursor); err != nil || got != last {
		t.Fatalf("ParseCursor() = %s, %v; want %s", got, err, last)
	}
	if first, err := s.ParseCursor(tenant, list, ""); err != nil || first != (tenants.ConnectionID{}) {
		t.Errorf("no cursor leads to %s, %v; want the first page", first, err)
	}
	tried := 0
	refused := func(what string, tenant tenants.TenantID, list, cursor string) {
		t.Helper()
		tried++
		if got, err := s.ParseCursor(tenant, list, cursor); fault.KindOf(err) != fault.InvalidRequest || got != (tenants.ConnectionID{}) {
			t.Errorf("%s: %s, %v; want it refused", what, got, err)
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	ok(t, err)
	for i := range raw {
		for bit := range 8 {
			edited := append([]byte(nil), raw...)
			edited[i] ^= 1 << bit
			refused("a flipped bit", tenant, list, base64.RawURLEncoding.EncodeToString(edited))
		}
		if i > 0 {
			refused("a cut cursor", tenant, list, base64.RawURLEncoding.EncodeToString(raw[:i]))
		}
	}
	for i := range cursor { // also spellings that decode to the same bytes
		for _, c := range "AZaz09-_+/=. \n\x00é" {
			if edited := cursor[:i] + string(c) + cursor[i+1:]; edited != cursor {
				refused("another character", tenant, list, edited)
			}
		}
	}
	theirs, err := s.Cursor(other, list, last)
	ok(t, err)
	foreign, err := s.Cursor(tenant, list, tenants.ConnectionID{UUID: uuid.New()})
	ok(t, err)
	foreignRaw, err := base64.RawURLEncoding.DecodeString(foreign)
	ok(t, err)
	refused("another tenant's", tenant, list, theirs)
	refused("another tenant presents it", other, list, cursor)
	for _, filter := range []string{"", "s=&u=&w=", "s=active&u=Ada&w=", "s=active&u=ada&w=x", list + "\n", "\n" + list, "audit"} {
		refused("another list", tenant, filter, cursor)
	}
	refused("two cursors' halves", tenant, list, base64.RawURLEncoding.EncodeToString(append(raw[:16:16], foreignRaw[16:]...)))
	for _, text := range []string{
		cursor + cursor, cursor + "=", cursor + "\n", "\r" + cursor, " " + cursor, cursor + "A", strings.ToUpper(cursor), last.String(), last.UUID.String(), "0", "-1", "' OR true --",
		base64.RawURLEncoding.EncodeToString(append(last.UUID[:], make([]byte, 16)...)), strings.Repeat("A", 1<<20),
	} {
		refused("something else", tenant, list, text)
	}
	stranger := openService(t)
	made, err := stranger.Cursor(tenant, list, last)
	ok(t, err)
	refused("one of another installation", tenant, list, made)
	t.Logf("%d cursors refused", tried)
}

// The same where Prisma pages the list.
func TestPrismasCursorsCannotBeTamperedWith(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant, other := tenants.TenantID{UUID: uuid.New()}, tenants.TenantID{UUID: uuid.New()}
	const list, place = "c=cnx_a&l=projects", "proj_cm7xk0a4n0000w8l4f6s2c9ty"
	cursor, err := s.PrismaCursor(tenant, list, place)
	ok(t, err)
	for given, want := range map[string]string{cursor: place, "": ""} {
		if got, err := s.ParsePrismaCursor(tenant, list, given); err != nil || got != want {
			t.Errorf("ParsePrismaCursor(%q) = %q, %v; want %q", given, got, err, want)
		}
	}
	refused := func(what string, tenant tenants.TenantID, list, cursor string) {
		t.Helper()
		if got, err := s.ParsePrismaCursor(tenant, list, cursor); fault.KindOf(err) != fault.InvalidRequest || got != "" {
			t.Errorf("%s: %q, %v; want it refused", what, got, err)
		}
	}
	for i := range cursor {
		refused("a cut cursor", tenant, list, cursor[:max(1, i)])
		refused("another character", tenant, list, cursor[:i]+string(rune(cursor[i]^1))+cursor[i+1:])
	}
	refused("another tenant presents it", other, list, cursor)
	for _, another := range []string{"", "c=cnx_b&l=projects", "c=cnx_a&l=databases", list + "\n" + place} {
		refused("another list", tenant, another, cursor)
	}
	refused("Prisma's own", tenant, list, place)
	refused("one that only has the form", tenant, list, base64.RawURLEncoding.EncodeToString([]byte(place+strings.Repeat("x", 16))))

	// Those of lists of our own are of another kind, even for a list of that name.
	last := tenants.ConnectionID{UUID: uuid.New()}
	ours, err := s.Cursor(tenant, list, last)
	ok(t, err)
	refused("a cursor of a list of ours", tenant, list, ours)
	theirs, err := s.PrismaCursor(tenant, list, string(last.UUID[:]))
	ok(t, err)
	if got, err := s.ParseCursor(tenant, list, theirs); fault.KindOf(err) != fault.InvalidRequest {
		t.Errorf("a list of ours takes a cursor of Prisma's: %s, %v", got, err)
	}
}
