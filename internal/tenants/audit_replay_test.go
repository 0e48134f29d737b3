package tenants_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/audittest"
	"github.com/connect-prisma/server/internal/tenants"
)

// What the audit log tells is how everything stands, whatever was done; and one thing that
// is changed past the log is told apart from the others.
func TestReplayingTheAuditLog(t *testing.T) {
	t.Parallel()
	s := openService(t)
	everything(t, s)
	f := s.furnish(t, "Bolt")
	paused := true
	_, err := s.UpdateTenant(t.Context(), tenants.System(), f.tenant, tenants.TenantChange{Paused: &paused})
	ok(t, err)
	s.rotate(t, f.tenant, f.key.ID)
	replay, wrong, err := audittest.Check(t.Context(), s.admin)
	ok(t, err)
	for _, what := range wrong {
		t.Error(what)
	}
	if replay.Things < 15 || replay.Rows < 50 {
		t.Errorf("%d rows rebuild the status of %d things: too few to show anything", replay.Rows, replay.Things)
	}
	t.Logf("%d rows rebuild the status of %d things", replay.Rows, replay.Things)
	for name, tc := range map[string]struct{ sql, want string }{
		"a tenant goes on":     {`UPDATE tenants SET status = 'active' WHERE id = $1`, "is active, and the log says paused"},
		"a key is revoked":     {`UPDATE api_keys SET revoked_at = app.now() WHERE tenant_id = $1 AND rotated_at IS NOT NULL`, "is revoked, and the log says live until"},
		"a key lives longer":   {`UPDATE api_keys SET expires_at = expires_at + interval '1 second' WHERE tenant_id = $1`, "and the log says live until"},
		"a key is unknown":     {`UPDATE api_keys SET id = gen_random_uuid() WHERE tenant_id = $1 AND rotated_at IS NULL`, "is live, and the log knows nothing of it"},
		"a connection is lost": {`UPDATE connections SET status = 'needs_reconnect', status_reason = 'x' WHERE tenant_id = $1`, "is needs_reconnect x, and the log says active"},
		"a session is gone":    {`DELETE FROM connect_sessions WHERE tenant_id = $1 AND status = 'created'`, "is not there, and the log says created"},
		"a session goes on":    {`UPDATE connect_sessions SET status = 'denied' WHERE tenant_id = $1 AND status = 'created'`, "is denied, and the log says created"},
		"something is made": {
			`UPDATE operations SET status = 'done', finished_at = app.now(), answer = '{}', resource_id = 'x' WHERE tenant_id = $1`,
			"is done, and the log does not say what it made",
		},
		"a row is gone": {`DELETE FROM audit_log WHERE tenant_id = $1 AND action = 'tenant.update'`, "is paused, and the log says active"},
	} {
		tx, err := s.admin.Begin(t.Context())
		ok(t, err)
		_, err = tx.Exec(t.Context(), tc.sql, f.tenant)
		ok(t, err)
		_, wrong, err := audittest.Check(t.Context(), tx)
		ok(t, err)
		if !strings.Contains(strings.Join(wrong, "\n"), tc.want) {
			t.Errorf("%s: %q, want %q", name, wrong, tc.want)
		}
		ok(t, tx.Rollback(t.Context()))
	}
}

// Whatever an operator changes about a tenant, and whatever a key may do, is in the log,
// but for secrets: of them just that they were set.
func TestAuditSaysWhatWasChanged(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	last := func() map[string]any {
		t.Helper()
		return one[map[string]any](t, s, `SELECT details FROM audit_log WHERE tenant_id = $1 ORDER BY sequence DESC LIMIT 1`, tenant)
	}
	const secret = "canary-secret"
	number, text, yes := 7, "https://acme.example/x", true
	whole := tenants.TenantChange{
		Name: &text, Paused: &yes, Completion: new(tenants.CompletionAutomatic), Client: &tenants.OAuthClient{ID: "other", Secret: secret},
		NextSecret: new("canary-next"), ServiceToken: new(secret), RestartURL: &text, ReturnURLs: []string{text},
		Limits: tenants.LimitsChange{Requests: &number, Burst: &number, Sessions: &number, Creates: &number, AtOnce: &number},
	}
	change := func(c tenants.TenantChange) map[string]any {
		t.Helper()
		_, err := s.UpdateTenant(t.Context(), tenants.System(), tenant, c)
		ok(t, err)
		return last()
	}
	fields := reflect.ValueOf(whole)
	for i := range fields.NumField() { // one that is added later has to be said, too
		var c tenants.TenantChange
		reflect.ValueOf(&c).Elem().Field(i).Set(fields.Field(i))
		if said := change(c); len(said) == 0 || fields.Field(i).IsZero() {
			t.Errorf("a change of %s says %v", fields.Type().Field(i).Name, said)
		}
	}
	want := map[string]any{
		"name": text, "paused": true, "completion": "automatic", "clientId": "other", "clientSecret": "set", "nextClientSecret": "set", "serviceToken": "set",
		"restartUrl": text, "returnUrls": []any{text}, "requestsPerSecond": 7.0, "burst": 7.0, "sessionsPerSecond": 7.0,
		"createsPerSecond": 7.0, "callsAtOnce": 7.0,
	}
	if diff := cmp.Diff(want, change(whole)); diff != "" {
		t.Errorf("all at once (-want +said):\n%s", diff)
	}
	if said := change(tenants.TenantChange{ServiceToken: new("")}); said["serviceToken"] != "none" {
		t.Errorf("a service token is taken away: %v", said)
	}
	ends := s.now(t).Add(time.Hour).UTC().Truncate(time.Microsecond)
	key, _, err := s.CreateKey(t.Context(), tenants.System(), tenant, "deploy", []tenants.Scope{tenants.ScopeRead}, ends)
	ok(t, err)
	want = map[string]any{"name": "deploy", "scopes": []any{"read"}, "expiresAt": ends.Format(time.RFC3339Nano)}
	if diff := cmp.Diff(want, last()); diff != "" {
		t.Errorf("a key (-want +said):\n%s", diff)
	}
	made := s.rotate(t, tenant, key.ID)
	said := last()
	if said["successor"] != made.Key.ID.String() || said["ends"] != ends.Format(time.RFC3339Nano) || said["name"] != "deploy" {
		t.Errorf("a rotation says %v", said)
	}
	if n := one[int](t, s, `SELECT count(*) FROM audit_log WHERE details::text LIKE '%canary%' OR details::text LIKE '%cpk_%'`); n != 0 {
		t.Errorf("%d rows hold a secret", n)
	}
	s.proven(t)
}
