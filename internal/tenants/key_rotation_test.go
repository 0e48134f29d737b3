package tenants_test

import (
	"context"
	"encoding/base32"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// live reports whether a key lets its holder in, and notes its use.
func (s *service) live(t *testing.T, secret string) bool {
	t.Helper()
	_, err := s.Authenticate(t.Context(), secret)
	if err != nil && fault.KindOf(err) != fault.Unauthorized {
		t.Fatal(err)
	}
	return err == nil
}

func usualRotation() tenants.NewRotation { return tenants.NewRotation{Overlap: tenants.KeyOverlap} }

func (s *service) rotate(t *testing.T, tenant tenants.TenantID, id tenants.KeyID) tenants.Rotation {
	t.Helper()
	made, err := s.RotateKey(t.Context(), tenants.System(), tenant, id, usualRotation())
	ok(t, err)
	return made
}

func TestRotateKey(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	by := tenants.System()
	key, secret := s.key(t, tenant, time.Time{}, tenants.ScopeRead, tenants.ScopeConnect)
	made := s.rotate(t, tenant, key.ID)
	if !tenants.IsAPIKey(made.Secret) || made.Secret == secret || !strings.HasPrefix(made.Secret, made.Key.Hint) ||
		made.Key.Name != key.Name || !slices.Equal(made.Key.Scopes, key.Scopes) || made.Key.Succeeds != key.ID ||
		!made.Key.ExpiresAt.IsZero() || made.Key.ID == key.ID {
		t.Errorf("RotateKey() = %+v", made.Key)
	}
	if left := made.OldEnds.Sub(s.now(t)); left > 24*time.Hour || left < 24*time.Hour-time.Minute {
		t.Errorf("the old key ends in %s, want a day", left)
	}
	caller, err := s.Authenticate(t.Context(), made.Secret)
	ok(t, err)
	if caller.Key != made.Key.ID || !slices.Equal(caller.Scopes, key.Scopes) || !s.live(t, secret) {
		t.Error("two keys are live, of the same scopes")
	}
	// A third is refused by either.
	_, err = s.RotateKey(t.Context(), by, tenant, key.ID, usualRotation())
	wantKind(t, "the old key, whose successor is used", err, fault.Conflict)
	_, err = s.RotateKey(t.Context(), by, tenant, made.Key.ID, usualRotation())
	wantKind(t, "the new key, beside the old one", err, fault.Conflict)
	s.db.Advance(t, 24*time.Hour)
	if s.live(t, secret) || !s.live(t, made.Secret) {
		t.Error("after a day the old key goes on, or the new one does not")
	}
	_, err = s.RotateKey(t.Context(), by, tenant, key.ID, usualRotation())
	wantKind(t, "a key that ended", err, fault.Unauthorized)
	third := s.rotate(t, tenant, made.Key.ID)
	if third.Key.Succeeds != made.Key.ID || !s.live(t, third.Secret) {
		t.Errorf("the third of the chain: %+v", third.Key)
	}
	// Revoking one of the two makes room; it does not end the other.
	s.mustRevoke(t, tenant, made.Key.ID)
	if s.live(t, made.Secret) || !s.live(t, third.Secret) {
		t.Error("revoking the second key ends not that one alone")
	}
	s.rotate(t, tenant, third.Key.ID)
	audit := list[string](t, s, `SELECT action || coalesce(' ' || (details->>'successor'), '') FROM audit_log
		WHERE tenant_id = $1 AND action = 'api_key.rotate' ORDER BY sequence`, tenant)
	if len(audit) != 3 || audit[0] != "api_key.rotate "+made.Key.ID.String() {
		t.Errorf("the audit log has %v", audit)
	}
	if n := one[int](t, s, `SELECT count(*) FROM audit_log WHERE details::text LIKE '%cpk\_%'`); n != 0 {
		t.Error("the audit log holds a key")
	}
}

// The answer with a new key may be lost: the old key makes another, and the lost one is
// void. The end of the old key stays, so that it can't be put off for ever.
func TestRotateKeyAgainAfterALostAnswer(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	key, secret := s.key(t, tenant, s.now(t).Add(90*24*time.Hour))
	s.db.Advance(t, 30*24*time.Hour)
	first := s.rotate(t, tenant, key.ID)
	for range 3 {
		s.db.Advance(t, time.Hour)
		lost := first
		first = s.rotate(t, tenant, key.ID)
		if s.live(t, lost.Secret) || !s.live(t, secret) || first.Key.ID != lost.Key.ID || !first.OldEnds.Equal(lost.OldEnds) {
			t.Errorf("rotated again: %+v after %+v", first, lost)
		}
	}
	// As long as the first one was to live, from now on.
	if life := first.Key.ExpiresAt.Sub(s.now(t)); life > 90*24*time.Hour || life < 90*24*time.Hour-time.Minute {
		t.Errorf("the successor lives for %s, want 90 days", life)
	}
	if n := one[int](t, s, `SELECT count(*) FROM api_keys`); n != 2 {
		t.Errorf("%d keys are stored, want 2", n)
	}
	// A successor that was revoked, used or not, makes room for another.
	s.live(t, first.Secret)
	s.mustRevoke(t, tenant, first.Key.ID)
	again := s.rotate(t, tenant, key.ID)
	if again.Key.ID == first.Key.ID || s.live(t, first.Secret) || !s.live(t, again.Secret) {
		t.Error("a revoked successor stands in the way, or came back")
	}
}

// A key that is about to end is not kept alive by rotating it.
func TestRotateKeyKeepsAnEarlierEnd(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	key, _ := s.key(t, tenant, s.now(t).Add(time.Hour))
	// One that an earlier version made has no lifetime of its own.
	s.sql(t, `UPDATE api_keys SET lifetime = NULL`)
	made := s.rotate(t, tenant, key.ID)
	if left := made.OldEnds.Sub(s.now(t)); left > time.Hour {
		t.Errorf("the old key ends in %s, want its own hour at most", left)
	}
	if life := made.Key.ExpiresAt.Sub(s.now(t)); life > time.Hour || life < 59*time.Minute {
		t.Errorf("the successor lives for %s, want an hour", life)
	}
}

// The caller says how long the old key goes on, and what the new one is called.
func TestRotateKeyAsAsked(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	by := tenants.System()
	key, secret := s.key(t, tenant, time.Time{})
	for name, in := range map[string]tenants.NewRotation{
		"a negative overlap": {Overlap: -time.Second},
		"more than a week":   {Overlap: 7*24*time.Hour + time.Second},
		"a hidden name":      {Name: "back\u202eend"},
		"a long name":        {Name: strings.Repeat("a", 121)},
	} {
		_, err := s.RotateKey(t.Context(), by, tenant, key.ID, in)
		wantKind(t, name, err, fault.InvalidValue)
	}
	if n := one[int](t, s, `SELECT count(*) FROM api_keys`); n != 1 {
		t.Fatalf("refused rotations made %d keys", n-1)
	}
	week, err := s.RotateKey(t.Context(), by, tenant, key.ID, tenants.NewRotation{Overlap: 7 * 24 * time.Hour, Name: "next"})
	ok(t, err)
	if left := week.OldEnds.Sub(s.now(t)); week.Key.Name != "next" || left < 7*24*time.Hour-time.Minute {
		t.Errorf("a key called %q follows in %s", week.Key.Name, left)
	}
	leaked, err := s.RotateKey(t.Context(), by, tenant, key.ID, tenants.NewRotation{})
	ok(t, err)
	if s.live(t, secret) || s.live(t, week.Secret) || !s.live(t, leaked.Secret) || leaked.Key.Name != "backend" {
		t.Error("a key that leaked, or its successor that nobody used, goes on")
	}
	read, err := s.Key(t.Context(), tenant, leaked.Key.ID)
	ok(t, err)
	if read.Name != "backend" || read.Hint != leaked.Key.Hint || read.Succeeds != key.ID || read.LastUsedAt.IsZero() {
		t.Errorf("Key() = %+v", read)
	}
	_, err = s.Key(t.Context(), s.tenant(t, "Bolt").ID, key.ID)
	wantKind(t, "another tenant's key", err, fault.NotFound)
}

// Whoever rotates at the same moment, at most two keys are live, and one answer holds.
func TestRotateKeyAtOnce(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant, other := s.tenant(t, "Acme").ID, s.tenant(t, "Bolt").ID
	key, secret := s.key(t, tenant, time.Time{})
	var mu sync.Mutex
	var secrets []string
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			made, err := s.RotateKey(t.Context(), tenants.System(), tenant, key.ID, usualRotation())
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			secrets = append(secrets, made.Secret)
		})
	}
	all.Wait()
	alive := 0
	for _, one := range secrets {
		if s.live(t, one) {
			alive++
		}
	}
	if alive != 1 || !s.live(t, secret) || len(secrets) != 10 {
		t.Errorf("%d of %d successors are live, want 1 beside the old key", alive, len(secrets))
	}
	_, err := s.RotateKey(t.Context(), tenants.System(), other, key.ID, usualRotation())
	wantKind(t, "another tenant's key", err, fault.Unauthorized)
}

// A key is replaced twenty times while it is in use on two replicas, by callers that
// change over one by one: nobody is ever turned away.
func TestRotateKeyUnderLoad(t *testing.T) {
	t.Parallel()
	const callers, rotations = 4, 20
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	key, secret := s.key(t, tenant, time.Time{})
	var current atomic.Value // the secret that callers find where they keep it
	current.Store(secret)
	replicas := []*tenants.Store{s.Store, s.store(t, tenants.Config{Pool: openPool(t, s.db.AppURL, 2, nil)})}
	ctx, stop := context.WithCancel(t.Context())
	changed := make(chan struct{})
	var calls atomic.Int64
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			last := ""
			for ctx.Err() == nil {
				mine, _ := current.Load().(string)
				if _, err := replicas[i%2].Authenticate(context.WithoutCancel(ctx), mine); err != nil {
					t.Errorf("a caller is turned away: %v", err)
				}
				calls.Add(1)
				if mine == last {
					continue
				}
				last = mine
				select {
				case changed <- struct{}{}:
				case <-ctx.Done():
				}
			}
		})
	}
	everybody := func() {
		for range callers {
			<-changed
		}
	}
	everybody()
	id := key.ID
	for range rotations {
		made := s.rotate(t, tenant, id)
		current.Store(made.Secret)
		everybody()
		s.db.Advance(t, tenants.KeyOverlap) // the key before has ended
		if s.live(t, secret) {
			t.Error("a replaced key goes on")
		}
		id, secret = made.Key.ID, made.Secret
	}
	stop()
	all.Wait()
	if n := one[int](t, s, `SELECT count(*) FROM api_keys`); n != rotations+1 || calls.Load() < callers*(rotations+1) {
		t.Errorf("%d keys, %d calls", n, calls.Load())
	}
}

// What the documents tell leak scanners finds real keys, and their checksum rule tells
// them from look-alikes.
func TestLeakPattern(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	for _, document := range []string{"operators.md", "partners.md"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", document))
		ok(t, err)
		block := regexp.MustCompile("(?s)```regex\n(.*?)\n```").FindSubmatch(text)
		if block == nil {
			t.Fatalf("%s has no pattern", document)
		}
		form := regexp.MustCompile(string(block[1]))
		for range 20 {
			_, secret := s.key(t, tenant, time.Time{})
			lookAlike := secret[:len(secret)-7] + "aaaaaaa"
			found := form.FindAllString(`{"key": "`+secret+`"} `+lookAlike+` x`+secret+` `+secret+"7 "+strings.ToUpper(secret), -1)
			if len(found) != 2 || found[0] != secret || found[1] != lookAlike {
				t.Errorf("%s: found %d keys in a text with one and a look-alike", document, len(found))
			}
			// The rule as it is written there.
			at := strings.LastIndex(secret, "_")
			sum := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(
				binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(secret[:at]))))
			if strings.ToLower(sum) != secret[at+1:] || !tenants.IsAPIKey(secret) || tenants.IsAPIKey(lookAlike) {
				t.Errorf("%s: the checksum rule does not tell a key from a look-alike", document)
			}
		}
	}
}

// Nobody but the service makes keys of which it says, without looking, that they are its
// own, also in the middle of a rotation of token keys.
func TestIssuedKeys(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	key, secret := s.key(t, tenant, time.Time{})
	rotated, err := s.RotateKey(t.Context(), tenants.System(), tenant, key.ID, tenants.NewRotation{})
	ok(t, err)
	_, err = s.RevokeKey(t.Context(), tenants.System(), tenant, key.ID)
	ok(t, err)
	promoted, err := sealing.PromoteKeys(s.text)
	ok(t, err)
	another, err := sealing.Generate()
	ok(t, err)
	for name, tc := range map[string]struct {
		text string
		want bool
	}{
		"here":                             {s.text, true},
		"once another token key is in use": {promoted, true},
		"with other token keys":            {another, false},
	} {
		keyset, err := sealing.Parse(tc.text, "test")
		ok(t, err)
		store, err := tenants.NewStore(tenants.Config{Pool: s.db.Pool, Keyset: keyset})
		ok(t, err)
		for kind, secret := range map[string]string{"made": secret, "rotated": rotated.Secret} {
			if got := store.Issued(secret); got != tc.want {
				t.Errorf("%s, a %s key is said to be issued: %t", name, kind, got)
			}
		}
	}
	spare := []byte(secret)
	spare[55]++ // the last letter of the body: 4 of its bits mean nothing
	if body := string(spare[:56]); s.Issued(body + "_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(
		binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(body)))))) {
		t.Error("another spelling of a key is said to be issued")
	}
	for name, change := range map[string]func([]byte){
		"random part": func(raw []byte) { raw[0] ^= 1 },
		"last bit":    func(raw []byte) { raw[len(raw)-1] ^= 1 },
		"whole code":  func(raw []byte) { clear(raw[24:]) },
	} {
		letters := base32.StdEncoding.WithPadding(base32.NoPadding)
		raw, err := letters.DecodeString(strings.ToUpper(secret[4:56]))
		ok(t, err)
		change(raw)
		body := "cpk_" + strings.ToLower(letters.EncodeToString(raw))
		forged := body + "_" + strings.ToLower(letters.EncodeToString(
			binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(body)))))
		if !tenants.IsAPIKey(forged) || s.Issued(forged) {
			t.Errorf("a key whose %s was changed is said to be issued", name)
		}
	}
	if s.Issued("") || s.Issued(secret[:40]) {
		t.Error("what is no key is said to be issued")
	}
}

// rotating lets something happen between the look-up of a key and the note of its use.
type rotating struct {
	queries

	before func() // the first note
}

func (r *rotating) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	if before := r.before; before != nil && strings.Contains(q.SQL, "last_used_at = app.now()") {
		r.before = nil
		before()
	}
	return ctx
}

// A successor that was replaced while its first use was being noted: its place is taken by
// one that nobody has used, so that a lost answer of that rotation locks nobody out.
func TestUseOfAReplacedSuccessorIsNotNoted(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant, by := s.tenant(t, "Acme").ID, tenants.System()
	key, _ := s.key(t, tenant, time.Time{})
	rotate := func() tenants.Rotation {
		t.Helper()
		made, err := s.RotateKey(t.Context(), by, tenant, key.ID, tenants.NewRotation{Overlap: time.Hour})
		ok(t, err)
		return made
	}
	first := rotate()
	cfg, err := pgxpool.ParseConfig(s.db.AppURL)
	if err != nil {
		t.Fatal("the test database's URL can't be parsed")
	}
	between := &rotating{before: func() { rotate() }}
	cfg.ConnConfig.Tracer = between
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	ok(t, err)
	t.Cleanup(pool.Close)
	_, err = s.store(t, tenants.Config{Pool: pool}).Authenticate(t.Context(), first.Secret)
	ok(t, err) // it was looked up before
	if between.before != nil {
		t.Fatal("no use was noted")
	}
	last := rotate() // the answer of the one before was lost
	if _, err := s.Authenticate(t.Context(), last.Secret); err != nil {
		t.Error(err)
	}
}
