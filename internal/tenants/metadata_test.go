package tenants_test

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

func pairs(list ...string) map[string]*string {
	m := map[string]*string{}
	for i := 0; i < len(list); i += 2 {
		m[list[i]] = &list[i+1]
	}
	return m
}

func TestChangeMetadata(t *testing.T) {
	t.Parallel()
	s := openService(t)
	ctx, by := t.Context(), tenants.System()
	tenant, other := s.tenant(t, "Acme").ID, s.tenant(t, "Bolt").ID
	c := s.connect(t, tenant, "user", s.pair(t, "1", "wksp_1"))
	long := strings.Repeat("é", 500)
	name := strings.Repeat("N", 40)
	for i, step := range []struct {
		change map[string]*string
		want   map[string]string
	}{
		{nil, map[string]string{}},
		{pairs("plan", "pro", "team.id", "7"), map[string]string{"plan": "pro", "team.id": "7"}},
		{pairs("plan", "team"), map[string]string{"plan": "team", "team.id": "7"}},
		{map[string]*string{"team.id": nil, "absent": nil}, map[string]string{"plan": "team"}},
		{pairs(name, long, "empty", ""), map[string]string{"plan": "team", name: long, "empty": ""}},
		{map[string]*string{"plan": nil, name: nil, "empty": nil}, map[string]string{}},
	} {
		got, err := s.ChangeMetadata(ctx, by, tenant, c.ID, step.change)
		ok(t, err)
		read, err := s.Connection(ctx, tenant, c.ID)
		ok(t, err)
		if !maps.Equal(got.Metadata, step.want) || !maps.Equal(read.Metadata, step.want) {
			t.Errorf("step %d: metadata has %d pairs, stored are %d, want %d", i, len(got.Metadata), len(read.Metadata), len(step.want))
		}
	}
	full := map[string]*string{}
	for i := range 20 {
		full[fmt.Sprintf("n%d", i)] = new(string)
	}
	_, err := s.ChangeMetadata(ctx, by, tenant, c.ID, full)
	ok(t, err)
	before := s.rows(t, tenant)
	_, err = s.ChangeMetadata(ctx, by, tenant, c.ID, full)
	ok(t, err)
	s.unchanged(t, "the same metadata again", tenant, before)
	tooMany := maps.Clone(full)
	for i := range 21 {
		tooMany[fmt.Sprintf("m%d", i)] = new(string)
	}
	for what, change := range map[string]map[string]*string{
		"a 21st name":        pairs("n20", "x"),
		"41 names":           tooMany,
		"no name":            pairs("", "x"),
		"a long name":        pairs(name+"N", "x"),
		"a name with a NUL":  pairs("a\x00", "x"),
		"a name with a path": pairs("a/b", "x"),
		"a foreign letter":   pairs("é", "x"),
		"a long value":       pairs("n0", long+"e"),
		"a NUL":              pairs("n0", "a\x00b"),
		"a line break":       pairs("n0", "a\nb"),
		"bad UTF-8":          pairs("n0", "a\xff"),
	} {
		_, err := s.ChangeMetadata(ctx, by, tenant, c.ID, change)
		wantKind(t, what, err, fault.InvalidValue)
	}
	_, err = s.ChangeMetadata(ctx, by, other, c.ID, pairs("n0", "mine"))
	wantKind(t, "another tenant's connection", err, fault.NotFound)
	s.unchanged(t, "refused changes", tenant, before)
	// One in, one out, is not one too many.
	_, err = s.ChangeMetadata(ctx, by, tenant, c.ID, map[string]*string{"n0": nil, "n20": new(string)})
	ok(t, err)
	_, err = s.Disconnect(ctx, by, tenant, c.ID)
	ok(t, err)
	_, err = s.ChangeMetadata(ctx, by, tenant, c.ID, pairs("n1", "x"))
	wantKind(t, "a disconnected connection", err, fault.NotFound)
}

// A refresh that began before a change and is saved after it undoes nothing of it, nor
// does a reconnect; and changes at the same moment are all kept.
func TestMetadataOutlivesTokenSaves(t *testing.T) {
	t.Parallel()
	s := openService(t)
	ctx, by := t.Context(), tenants.System()
	tenant := s.tenant(t, "Acme").ID
	c := s.connect(t, tenant, "user", s.pair(t, "1", "wksp_1"))
	storage := s.TokensOf(tenant, c.ID)
	current, err := storage.Tokens(ctx)
	ok(t, err)
	claim, err := storage.Claim(ctx, current)
	ok(t, err)
	if !claim.Due {
		t.Fatalf("Claim() = %+v, want it due", claim)
	}
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			if _, err := s.ChangeMetadata(ctx, by, tenant, c.ID, pairs(fmt.Sprintf("n%d", i), "kept")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Go(func() {
		if err := storage.Save(ctx, claim, next(claim, "2")); err != nil {
			t.Error(err)
		}
	})
	all.Wait()
	s.connect(t, tenant, "user", s.pair(t, "3", "wksp_1")) // a reconnect
	ok(t, storage.Settle(ctx, claim, prisma.Unknown))
	read, err := s.Connection(ctx, tenant, c.ID)
	ok(t, err)
	if len(read.Metadata) != 10 || read.Generation != 3 {
		t.Errorf("%d pairs are kept under generation %d, want 10 and 3", len(read.Metadata), read.Generation)
	}
	if n := one[int](t, s, `SELECT count(*) FROM audit_log WHERE action = 'connection.update'`); n != 10 {
		t.Errorf("%d audit rows, want 10", n)
	}
}
