package tenants_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// A sealed token opens in its row, column, tenant and generation alone, whatever
// somebody with the right to write moves around.
func TestSealedTokensDontMove(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"to another connection": `UPDATE connections a SET access_token_sealed = b.access_token_sealed
			FROM connections b WHERE a.user_id = 'victim' AND b.user_id = 'same tenant'`,
		"to another tenant's connection": `UPDATE connections a SET refresh_token_sealed = b.refresh_token_sealed
			FROM connections b WHERE a.user_id = 'victim' AND b.user_id = 'other tenant'`,
		"to the other column":   `UPDATE connections SET access_token_sealed = refresh_token_sealed WHERE user_id = 'victim'`,
		"to another generation": `UPDATE connections SET generation = 2 WHERE user_id = 'victim'`,
		"by a damaged byte": `UPDATE connections SET access_token_sealed =
			set_byte(access_token_sealed, 12, get_byte(access_token_sealed, 12) # 1) WHERE user_id = 'victim'`,
		"by a cut": `UPDATE connections SET refresh_token_sealed = substr(refresh_token_sealed, 1, 20) WHERE user_id = 'victim'`,
	}
	for name, move := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openService(t)
			owner, other := s.tenant(t, "Acme").ID, s.tenant(t, "Bolt").ID
			victim := s.connect(t, owner, "victim", s.pair(t, "1", "wksp_1"))
			s.connect(t, owner, "same tenant", s.pair(t, "2", "wksp_1"))
			s.connect(t, other, "other tenant", s.pair(t, "3", "wksp_1"))
			storage := s.TokensOf(owner, victim.ID)
			before, err := storage.Tokens(t.Context())
			ok(t, err)
			s.sql(t, move)
			tokens, err := storage.Tokens(t.Context())
			if !errors.Is(err, sealing.ErrNotOpened) || tokens.Access != "" || tokens.Refresh != "" {
				t.Errorf("Tokens() = %v, %v; want ErrNotOpened and no token", tokens, err)
			}
			claim, err := storage.Claim(t.Context(), before)
			if err == nil || claim.Due {
				t.Errorf("Claim(): due = %t, error = %v; want it refused", claim.Due, err)
			}
		})
	}
}

func TestOtherSealedSecretsDontMove(t *testing.T) {
	t.Parallel()
	s := openService(t)
	a, b := s.tenant(t, "Acme"), s.tenant(t, "Bolt")
	x, code := s.returned(t, a.ID, tenants.NewSession{})
	y, _ := s.returned(t, b.ID, tenants.NewSession{})
	s.sql(t, `UPDATE tenants a SET client_secret_sealed = b.client_secret_sealed FROM tenants b WHERE a.id = $1 AND b.id = $2`, a.ID, b.ID)
	if client, err := s.OAuthClientOf(t.Context(), a.ID); !errors.Is(err, sealing.ErrNotOpened) || client.Secret != "" {
		t.Errorf("another tenant's client secret: %v", err)
	}
	s.sql(t, `UPDATE tenants SET service_token_sealed = client_secret_sealed WHERE id = $1`, b.ID)
	if token, err := s.ServiceToken(t.Context(), b.ID); !errors.Is(err, sealing.ErrNotOpened) || token != "" {
		t.Errorf("a client secret as service token: %v", err)
	}
	s.sql(t, `UPDATE connect_sessions a SET code_sealed = b.code_sealed FROM connect_sessions b WHERE a.id = $1 AND b.id = $2`, x.ID, y.ID)
	if claim, err := s.ClaimCompletion(t.Context(), tenants.System(), a.ID, x.ID, code, "user"); !errors.Is(err, sealing.ErrNotOpened) || claim.Code != "" {
		t.Errorf("another session's code: %v", err)
	}
}

// What a dump of the database shows of the secrets: nothing.
func TestNoPlaintextInTheDatabase(t *testing.T) {
	t.Parallel()
	s := openService(t)
	acme := s.tenant(t, "Acme").ID
	_, key, err := s.CreateKey(t.Context(), tenants.System(), acme, "backend", tenants.AllScopes(), s.now(t))
	ok(t, err)
	_, link, err := s.CreateSession(t.Context(), tenants.System(), acme, tenants.NewSession{UserID: "user", ReturnURL: returnURL})
	ok(t, err)
	x, completion := s.returned(t, acme, tenants.NewSession{})
	c := s.connect(t, acme, "user", s.pair(t, "canary", "wksp_1"))
	storage := s.TokensOf(acme, c.ID)
	current, err := storage.Tokens(t.Context())
	ok(t, err)
	claim, err := storage.Claim(t.Context(), current)
	ok(t, err)
	ok(t, storage.Save(t.Context(), claim, next(claim, "rotated")))
	admin, err := s.SetAdmin(t.Context(), tenants.System(), "root@example.com", "$argon2id$hash")
	ok(t, err)
	session, err := s.BeginAdminSession(t.Context(), tenants.System(), admin.ID)
	ok(t, err)

	secrets := map[string]string{
		"API key": key, "connect link": link, "completion code": completion, "admin session": session,
		"client secret": "client-secret-Acme", "service token": "service-token-Acme",
		"authorization code": "code-" + x.ID.String(), "verifier": "verifier-" + x.ID.String(),
		"access token": "access-canary", "refresh token": "refresh-canary",
		"rotated access token": "access-rotated", "rotated refresh token": "refresh-rotated",
	}
	var dump strings.Builder
	for _, table := range list[string](t, s, `SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
		JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname IN ('public', 'app', 'river')`) {
		for _, row := range list[string](t, s, `SELECT t::text FROM `+table+` t`) {
			dump.WriteString(row + "\n")
		}
		// bytea shows as hexadecimal digits: look at the bytes as well
		for _, row := range list[string](t, s, `SELECT v.value FROM `+table+` t, jsonb_each_text(to_jsonb(t)) v WHERE v.value LIKE '\\x%'`) {
			dump.WriteString(unhex(row) + "\n")
		}
	}
	if text := dump.String(); !strings.Contains(text, "wksp_1") || !strings.Contains(text, returnURL) {
		t.Fatal("the dump does not show what is no secret")
	}
	for name, secret := range secrets {
		if strings.Contains(dump.String(), secret) {
			t.Errorf("%s is in the database in plain text", name)
		}
	}
}

// Tokens never show in what is printed.
func TestTokensDontPrint(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	claim := l.due(t)
	for _, text := range []string{claim.Current.String(), claim.Current.GoString(), next(claim, "2").LogValue().String()} {
		if strings.Contains(text, "access-") || strings.Contains(text, "refresh-") {
			t.Error("printing tokens shows them")
		}
	}
	err := l.Save(t.Context(), prisma.Claim{Current: prisma.Tokens{Generation: 7}}, next(claim, "2"))
	if !errors.Is(err, prisma.ErrSuperseded) || strings.Contains(err.Error(), "access-") {
		t.Errorf("Save() of a generation that never was = %v", err)
	}
}
