package oauthflow_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
)

// TestNoSecretIsLoggedOrShown goes through all that handles secrets, well and
// badly. What it meets on the way, every token, code, verifier, state, cookie, key,
// link and password, is then looked for in every log line (with and without the
// redactor), page and problem; apitest does that for every other test too.
func TestNoSecretIsLoggedOrShown(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	w.Expect(http.StatusServiceUnavailable, http.StatusBadGateway)
	call := func(method, path string, body any) apitest.Answer {
		return w.Call(t, w.Tenant.Key, method, path, body)
	}

	first := w.Connect(t, w.Tenant, "ada", workspaceA)
	base := "/v1/connections/" + first.ID
	made := call(http.MethodPost, base+"/databases", map[string]string{"name": "shop", "region": "us-east-1"})
	database := apitest.Data[struct {
		ID          string
		Credentials struct{ ConnectionString string }
	}](t, made)
	if !strings.Contains(database.Credentials.ConnectionString, "@") {
		t.Fatal("no connection string was handed over")
	}
	call(http.MethodPost, base+"/databases/"+database.ID+"/credentials", map[string]string{"name": "worker"})
	call(http.MethodGet, base+"/databases", nil)

	// Refreshes: one that works, one that Prisma fails, one that is refused.
	w.Advance(t, 61*time.Minute)
	call(http.MethodGet, base+"/projects", nil)
	w.Advance(t, 61*time.Minute)
	w.Faults(t, map[string]any{"tokenFailBefore": 1})
	call(http.MethodGet, base+"/projects", nil)
	w.Faults(t, map[string]any{"tokenFailBefore": 0})
	var grants struct{ Grants []struct{ ID string } }
	w.Sim.Control(t, http.MethodGet, "grants", nil, &grants)
	w.Sim.Control(t, http.MethodPost, "revoke", map[string]string{"grant": grants.Grants[0].ID}, nil)
	w.Advance(t, 61*time.Minute)
	call(http.MethodGet, base+"/projects", nil)

	// Flows that end badly, with the code and verifier in hand.
	for _, fault := range []string{"tokenFailAfter", "tokenDropAfter", "tokenFailBefore"} {
		w.Faults(t, map[string]any{fault: 1})
		session, code := w.Return(t, w.Tenant, "ada", workspaceA, nil)
		w.Complete(t, w.Tenant.Key, session, code, "ada")
		w.NewBrowser().Finish(t, w.CreateSession(t, w.Tenant, "ada", map[string]any{"completion": "automatic"}).URL, workspaceA)
		w.Faults(t, map[string]any{fault: 0})
	}
	session, code := w.Return(t, w.Tenant, "ada", workspaceB, map[string]any{"connectionId": first.ID})
	w.Complete(t, w.Tenant.Key, session, code, "mallory")
	w.Complete(t, w.Tenant.Key, session, code, "ada")
	w.Complete(t, w.Tenant.Key, session, code, "ada")
	moved := begin(t, w, "ada")
	w.NewBrowser().Do(t, http.MethodGet, moved.callback.String(), nil)
	moved.browser.Do(t, http.MethodGet, moved.callback.String()+"&state=doubled", nil)
	call(http.MethodDelete, base+"?revoke=true", nil)

	kinds := w.SecretKinds()
	for kind, least := range map[string]int{
		"access token": 3, "refresh token": 3, "code": 8, "verifier": 8, "state": 8, "completion code": 5, "cookie": 8,
		"API key": 1, "client secret": 1, "link": 8, "connection string": 4, "keyset": 1, "cookie keys": 1,
	} {
		if kinds[kind] < least {
			t.Errorf("only %d secrets of the kind %s were met, want %d: the test has become blind", kinds[kind], kind, least)
		}
	}
	answers, lines, secrets := w.Figures()
	t.Logf("%d secrets of %d kinds are looked for in %d log lines (twice) and %d answers", secrets, len(kinds), lines, answers)
}
