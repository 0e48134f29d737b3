package tenants_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

var rewraps = flag.Int("rewraps", 2, "rotations of TestRewrapDuringRefreshes")

// keysets are those of a rotation: its steps by name, and the key that goes.
type keysets struct {
	added, promoted, retired *sealing.Keyset
	old, fresh               uint32
	text                     string // of promoted
}

// rotation makes the keysets that follow on text.
func rotation(t *testing.T, text string) keysets {
	t.Helper()
	var k keysets
	step := func(change func(string) (string, error)) *sealing.Keyset {
		var err error
		text, err = change(text)
		ok(t, err)
		set, err := sealing.Parse(text, "test")
		ok(t, err)
		return set
	}
	k.added = step(sealing.AddKeys)
	k.old = k.added.SealKeys()[0]
	k.promoted = step(sealing.PromoteKeys)
	k.fresh, k.text = k.promoted.SealKeys()[0], text
	k.retired = step(func(text string) (string, error) { return sealing.RetireKey(text, k.old) })
	return k
}

// openRotating is a service whose keyset's text is known.
func openRotating(t *testing.T) (*service, string) {
	t.Helper()
	s := openService(t)
	text, err := sealing.Generate()
	ok(t, err)
	s.keyset, err = sealing.Parse(text, "test")
	ok(t, err)
	s.Store = s.store(t, tenants.Config{Pool: s.db.Pool})
	return s, text
}

// with is a store of a replica that has another keyset.
func (s *service) with(t *testing.T, keyset *sealing.Keyset) *tenants.Store {
	t.Helper()
	store, err := tenants.NewStore(tenants.Config{Pool: s.db.Pool, Keyset: keyset})
	ok(t, err)
	return store
}

// on counts the values that are sealed with a key.
func on(t *testing.T, store *tenants.Store, key uint32) (n int, columns []string) {
	t.Helper()
	uses, err := store.KeyUses(t.Context())
	ok(t, err)
	for _, use := range uses {
		if use.Key == key {
			n += use.Values
			columns = append(columns, use.Column)
		}
	}
	slices.Sort(columns)
	return n, columns
}

// Every sealed column there is gets the newest key, and says the same as before without the
// old one; what is fingerprinted is recognised as before.
func TestRewrap(t *testing.T) {
	t.Parallel()
	s, text := openRotating(t)
	ctx := t.Context()
	tenant := s.tenant(t, "Acme")
	s.storeNext(t, tenant.ID, "next")
	_, apiKey, err := s.CreateKey(ctx, tenants.System(), tenant.ID, "key", tenants.AllScopes(), time.Time{})
	ok(t, err)
	connections := map[tenants.ConnectionID]string{}
	for i := range 120 { // more than a batch
		name := fmt.Sprintf("user-%d", i)
		connections[s.connect(t, tenant.ID, name, s.pair(t, name, "wksp_1")).ID] = "refresh-" + name
	}
	session, completion := s.returned(t, tenant.ID, tenants.NewSession{})
	o := operations{Store: s.Store, db: s.db, tenant: tenant.ID}
	for o.connection = range connections {
		break
	}
	o.finish(t, "k", "con_1")

	k := rotation(t, text)
	columns := list[string](t, s, `
		SELECT table_name || '.' || left(column_name, -7) FROM information_schema.columns
		WHERE table_schema = 'public' AND data_type = 'bytea' AND column_name LIKE '%\_sealed' ORDER BY 1`)
	slices.Sort(columns)
	before, used := on(t, s.Store, k.old)
	if diff := cmp.Diff(columns, used); diff != "" {
		t.Fatalf("columns of the schema and those that are looked at (-schema +looked at):\n%s", diff)
	}
	reported := 0
	sum, err := s.with(t, k.promoted).Rewrap(ctx, tenants.System(), func(string, int) { reported++ })
	ok(t, err)
	after := s.with(t, k.retired)
	if n, _ := on(t, after, k.old); sum != (tenants.Rewrapped{Values: before}) || n != 0 || reported < 5 {
		t.Errorf("Rewrap() = %+v in %d batches; %d of %d values are left on the old key", sum, reported, n, before)
	}
	t.Logf("%d values of %d columns: %d left on the old key", before, len(columns), 0)

	for id, refresh := range connections {
		if tokens, err := after.TokensOf(tenant.ID, id).Tokens(ctx); err != nil || tokens.Refresh != refresh || tokens.Generation != 1 {
			t.Fatalf("Tokens() = %q of generation %d, %v", tokens.Refresh, tokens.Generation, err)
		}
	}
	client, err := after.OAuthClientOf(ctx, tenant.ID)
	if err != nil || client.Secret != "client-secret-Acme" || client.NextSecret != "next" {
		t.Errorf("OAuthClientOf(): %v", err)
	}
	if token, err := after.ServiceToken(ctx, tenant.ID); err != nil || token != "service-token-Acme" {
		t.Errorf("ServiceToken(): %v", err)
	}
	if caller, err := after.Authenticate(ctx, apiKey); err != nil || caller.Tenant.ID != tenant.ID {
		t.Errorf("an API key of before: %v", err)
	}
	claim, err := after.ClaimCompletion(ctx, tenants.System(), tenant.ID, session.ID, completion, session.UserID)
	if err != nil || claim.Code != "code-"+session.ID.String() || claim.Verifier != "verifier-"+session.ID.String() {
		t.Errorf("ClaimCompletion(): %v", err)
	}
	again, err := s.with(t, k.promoted).Rewrap(ctx, tenants.System(), nil)
	if err != nil || again != (tenants.Rewrapped{}) {
		t.Errorf("a second Rewrap() = %+v, %v", again, err)
	}
	if n := one[int](t, s, `SELECT count(*)::int FROM admin_log WHERE action = 'secrets.rewrapped'`); n != 2 {
		t.Errorf("%d rows in the admin log", n)
	}
	check, err := after.VerifyLedger(ctx, tenants.LedgerCheck{}, func(f tenants.LedgerFinding) { t.Errorf("ledger: %s", f.What) })
	if err != nil || check.Findings != 0 {
		t.Errorf("VerifyLedger(): %d findings, %v", check.Findings, err)
	}
}

// What can't be opened where it is stays as it is, and is told.
func TestRewrapLeavesWhatItCantOpen(t *testing.T) {
	t.Parallel()
	s, text := openRotating(t)
	tenant := s.tenant(t, "Acme").ID
	a := s.connect(t, tenant, "ada", s.pair(t, "ada", "wksp_1")).ID
	b := s.connect(t, tenant, "bob", s.pair(t, "bob", "wksp_1")).ID
	s.sql(t, `UPDATE connections SET access_token_sealed = (SELECT access_token_sealed FROM connections WHERE id = $2) WHERE id = $1`, a, b)
	k := rotation(t, text)
	sum, err := s.with(t, k.promoted).Rewrap(t.Context(), tenants.System(), nil)
	ok(t, err)
	n, columns := on(t, s.Store, k.old)
	if sum.Unreadable != 1 || sum.Left != 0 || n != 1 || !slices.Equal(columns, []string{"connections.access_token"}) {
		t.Errorf("Rewrap() = %+v; %d values are left, in %v", sum, n, columns)
	}
	if _, err := s.with(t, k.promoted).TokensOf(tenant, b).Tokens(t.Context()); err != nil {
		t.Errorf("the other connection: %v", err)
	}
}

// A row that somebody has in hand is neither waited for nor forgotten; one that comes
// to an end in the middle is gone on with.
func TestRewrapComesBack(t *testing.T) {
	t.Parallel()
	s, text := openRotating(t)
	tenant := s.tenant(t, "Acme").ID
	for i := range 120 { // more than a batch
		s.connect(t, tenant, fmt.Sprint("user-", i), s.pair(t, fmt.Sprint("user-", i), "wksp_1"))
	}
	k := rotation(t, text)
	store := s.with(t, k.promoted)
	ctx, stop := context.WithCancel(t.Context())
	_, err := store.Rewrap(ctx, tenants.System(), func(table string, _ int) {
		if table == "connections" {
			stop()
		}
	})
	if n, _ := on(t, store, k.old); !errors.Is(err, context.Canceled) || n == 0 || n >= 240 {
		t.Fatalf("interrupted: %v, %d values left", err, n)
	}
	tx, err := s.admin.Begin(t.Context())
	ok(t, err)
	tag, err := tx.Exec(t.Context(), `SELECT FROM connections WHERE substr(access_token_sealed, 1, 5) <> $1 LIMIT 7 FOR UPDATE`, k.promoted.SealPrefix())
	ok(t, err)
	seen := make(chan struct{})
	var once sync.Once
	done := make(chan error, 1)
	go func() {
		sum, err := store.Rewrap(t.Context(), tenants.System(), func(string, int) { once.Do(func() { close(seen) }) })
		if err == nil && (sum.Left != 0 || sum.Unreadable != 0) {
			err = fmt.Errorf("Rewrap() = %+v", sum)
		}
		done <- err
	}()
	<-seen
	eventually(t, "all but the locked rows are done", func() bool {
		n, _ := on(t, store, k.old)
		return n == 2*int(tag.RowsAffected())
	})
	ok(t, tx.Rollback(t.Context()))
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n, _ := on(t, store, k.old); n != 0 {
		t.Errorf("%d values are left", n)
	}
}

// The keys are rotated while connections are refreshed as fast as it goes, by replicas at
// different steps: no pair is lost, nothing stays on the old key.
func TestRewrapDuringRefreshes(t *testing.T) {
	t.Parallel()
	s, text := openRotating(t)
	const connections, replicas, workers = 60, 2, 6
	tenant := s.tenant(t, "Acme").ID
	ids := make([]tenants.ConnectionID, connections)
	last := make([]atomic.Value, connections) // the newest refresh token of each
	for i := range ids {
		name := fmt.Sprint("user-", i)
		ids[i] = s.connect(t, tenant, name, s.pair(t, name, "wksp_1")).ID
		last[i].Store("refresh-" + name)
	}
	var current [replicas]atomic.Pointer[tenants.Store]
	for i := range current {
		current[i].Store(s.Store)
	}
	ctx, stop := context.WithCancel(t.Context())
	var refreshing sync.WaitGroup
	var refreshes atomic.Int64
	for worker := range workers {
		refreshing.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				i := n*workers%connections + worker // each its own connections, one after the other
				storage := current[n%replicas].Load().TokensOf(tenant, ids[i])
				refresh := fmt.Sprintf("refresh-%d-%d", i, n)
				if err := refreshOnce(context.WithoutCancel(ctx), storage, last[i].Load().(string), refresh); err != nil {
					t.Error(err)
					return
				}
				last[i].Store(refresh)
				refreshes.Add(1)
			}
		})
	}
	values, began := 0, clock()
	for range *rewraps {
		k := rotation(t, text)
		text = k.text
		for _, keyset := range []*sealing.Keyset{k.added, k.promoted} {
			for i := range current { // one replica after the other
				current[i].Store(s.with(t, keyset))
				wait(t, &refreshes, 2*workers)
			}
		}
		sum, err := s.with(t, k.promoted).Rewrap(t.Context(), tenants.System(), nil)
		ok(t, err)
		values += sum.Values
		after := s.with(t, k.retired)
		if n, columns := on(t, after, k.old); n != 0 || sum.Unreadable != 0 || sum.Left != 0 {
			t.Errorf("Rewrap() = %+v; %d values are left in %v", sum, n, columns)
		}
		text, err = sealing.RetireKey(text, k.old)
		ok(t, err)
		for i := range current {
			current[i].Store(after)
		}
		wait(t, &refreshes, 2*workers)
	}
	took := clock().Sub(began)
	stop()
	refreshing.Wait()
	for i, id := range ids {
		tokens, err := current[0].Load().TokensOf(tenant, id).Tokens(t.Context())
		if err != nil || tokens.Refresh != last[i].Load() {
			t.Errorf("connection %d has %q, want %q, %v", i, tokens.Refresh, last[i].Load(), err)
		}
	}
	t.Logf("%d rotations in %s, %d values sealed anew, %d refreshes (%.0f a minute): 0 lost", *rewraps,
		took.Round(time.Millisecond), values, refreshes.Load(), float64(refreshes.Load())/took.Minutes())
}

// refreshOnce takes the lease, finds the token that was stored last, and saves the next.
func refreshOnce(ctx context.Context, storage *tenants.TokenStorage, want, refresh string) error {
	tokens, err := storage.Tokens(ctx)
	if err != nil {
		return err
	}
	claim, err := storage.Claim(ctx, tokens)
	if err != nil || !claim.Due || claim.Current.Refresh != want {
		return fmt.Errorf("claim: due %t, %q is stored instead of %q: %w", claim.Due, claim.Current.Refresh, want, err)
	}
	fresh := claim.Current
	fresh.Access, fresh.Refresh = "access-"+refresh, refresh
	return storage.Save(ctx, claim, fresh)
}

// wait waits for that many more refreshes.
func wait(t *testing.T, refreshes *atomic.Int64, more int64) {
	t.Helper()
	from := refreshes.Load()
	for tries := 0; refreshes.Load() < from+more && !t.Failed(); tries++ {
		<-time.After(time.Millisecond)
		if tries == 30_000 {
			t.Fatal("nothing is refreshed any more")
		}
	}
}

// Keys are promoted before every replica has them: whoever lacks one sends nothing and
// says what is wrong, and everything works again once it has it.
func TestKeysPromotedTooEarly(t *testing.T) {
	t.Parallel()
	s, text := openRotating(t)
	k := rotation(t, text)
	tenant := s.tenant(t, "Acme").ID
	id := s.connect(t, tenant, "ada", s.pair(t, "ada", "wksp_1")).ID
	behind, ahead := s.Store, s.with(t, k.promoted)
	missing := strconv.FormatUint(uint64(k.fresh), 10)
	ok(t, behind.Beat(t.Context()))

	// Told before anything happens.
	err := ahead.CheckReplicaKeys(t.Context(), false)
	wantKind(t, "CheckReplicaKeys() with a replica behind", err, fault.Conflict)
	if err != nil && !strings.Contains(err.Error(), missing) {
		t.Errorf("the error does not name the key: %v", err)
	}
	_, err = ahead.Rewrap(t.Context(), tenants.System(), nil)
	wantKind(t, "Rewrap() with a replica behind", err, fault.Conflict)
	ok(t, s.with(t, k.added).CheckReplicaKeys(t.Context(), true))

	// And if it happens all the same:
	ok(t, refreshOnce(t.Context(), ahead.TokensOf(tenant, id), "refresh-ada", "refresh-2"))
	_, err = behind.TokensOf(tenant, id).Tokens(t.Context())
	wantKind(t, "Tokens() of the replica behind", err, fault.PrismaUnavailable)
	if !errors.Is(err, sealing.ErrUnknownKey) || !strings.Contains(err.Error(), missing) {
		t.Errorf("the error does not say which key is missing: %v", err)
	}
	_, err = behind.TokensOf(tenant, id).Claim(t.Context(), prisma.Tokens{Generation: 2})
	wantKind(t, "Claim() of the replica behind", err, fault.PrismaUnavailable)
	ok(t, refreshOnce(t.Context(), s.with(t, k.added).TokensOf(tenant, id), "refresh-2", "refresh-3"))
	ok(t, refreshOnce(t.Context(), ahead.TokensOf(tenant, id), "refresh-3", "refresh-4"))

	// A replica of before the rotation is started: it could not read what the others write.
	ok(t, behind.EndBeats(t.Context()))
	ok(t, ahead.Beat(t.Context()))
	wantKind(t, "CheckReplicaKeys() of an old keyset", behind.CheckReplicaKeys(t.Context(), false), fault.Conflict)
	ok(t, s.with(t, k.added).CheckReplicaKeys(t.Context(), true))

	// One of a version that says nothing holds up a promotion, and no start.
	s.sql(t, `UPDATE app.replicas SET seal_keys = NULL, fingerprint_keys = NULL`)
	ok(t, behind.CheckReplicaKeys(t.Context(), false))
	wantKind(t, "CheckReplicaKeys() of all", s.with(t, k.promoted).CheckReplicaKeys(t.Context(), true), fault.Conflict)
}
