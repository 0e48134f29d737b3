package oauthflow_test

import (
	"net/http"
	"testing"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/prismasim"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
	"github.com/connect-prisma/server/internal/tenants"
)

// rotate makes Prisma take those secrets of the tenant's client and no other.
func rotate(t *testing.T, w *apitest.World, secret string, others ...string) {
	t.Helper()
	client := prismasimtest.Seed().Clients[0]
	client.Secret, client.OtherSecrets = secret, others
	w.Sim.Control(t, http.MethodPut, "seed", prismasim.Seed{Clients: []prismasim.Client{client}}, nil)
}

// A user is on the way back from Prisma while the secret of the partner's client is replaced
// there: the code was not looked at, and is redeemed with the next secret.
func TestTheSecretIsReplacedDuringAConnect(t *testing.T) {
	t.Parallel()
	const next = "the-next-secret-0123456789"
	for name, completion := range map[string]tenants.Completion{
		"a completion": tenants.CompletionCode, "an automatic one": tenants.CompletionAutomatic,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := apitest.New(t)
			secret := next
			_, err := w.Store.UpdateTenant(t.Context(), tenants.System(), w.Tenant.ID, tenants.TenantChange{NextSecret: &secret, Completion: &completion})
			if err != nil {
				t.Fatal(err)
			}
			if completion == tenants.CompletionCode {
				session, code := w.Return(t, w.Tenant, "ada", workspaceA, nil)
				rotate(t, w, next)
				answer := w.Complete(t, w.Tenant.Key, session, code, "ada")
				if answer.Status != http.StatusOK {
					t.Fatalf("complete answered %d: %s", answer.Status, answer.Body)
				}
			} else {
				made := w.CreateSession(t, w.Tenant, "ada", nil)
				rotate(t, w, next)
				if back := w.NewBrowser().Finish(t, made.URL, workspaceA); back.Status != http.StatusOK {
					t.Fatalf("the callback answered %d", back.Status)
				}
			}
			if saw := w.Sim.Ledger(t).Counters; saw.CodeExchanges != 2 || saw.Replays != 0 || saw.Revocations != 0 {
				t.Errorf("Prisma saw %+v, want two presentations and no replay", saw)
			}
			if n := apitest.Query[int](t, w, `SELECT count(*)::int FROM connections WHERE status = 'active'`); n != 1 {
				t.Errorf("%d connections", n)
			}
			if err := w.Flow.Wait(t.Context()); err != nil { // for the note behind the completion
				t.Fatal(err)
			}
			got, err := w.Store.OAuthClientOf(t.Context(), w.Tenant.ID)
			if err != nil || got != (tenants.OAuthClient{ID: prismasimtest.ClientID, Secret: next}) {
				t.Errorf("the next secret was not adopted, %v", err)
			}
		})
	}
}

// Whatever else an exchange ends with, its code is not presented again.
func TestACodeIsNotPresentedAgainForOtherReasons(t *testing.T) {
	t.Parallel()
	for _, fails := range []string{"tokenFailAfter", "tokenFailBefore", "tokenDropAfter"} {
		t.Run(fails, func(t *testing.T) {
			t.Parallel()
			w := apitest.New(t)
			next := "the-next-secret-0123456789"
			_, err := w.Store.UpdateTenant(t.Context(), tenants.System(), w.Tenant.ID, tenants.TenantChange{NextSecret: &next})
			if err != nil {
				t.Fatal(err)
			}
			rotate(t, w, prismasimtest.ClientSecret, next)
			session, code := w.Return(t, w.Tenant, "ada", workspaceA, nil)
			w.Faults(t, map[string]any{fails: 1})
			apitest.WantProblem(t, w.Complete(t, w.Tenant.Key, session, code, "ada"), http.StatusConflict, "restart-connect")
			if saw := w.Sim.Ledger(t).Counters; saw.CodeExchanges != 1 || saw.Replays != 0 {
				t.Errorf("Prisma saw %+v, want one presentation", saw)
			}
		})
	}
}

// Neither secret is taken: two requests, and the user begins anew.
func TestBothSecretsAreRefusedDuringAConnect(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	wrong := "not-the-next-secret"
	_, err := w.Store.UpdateTenant(t.Context(), tenants.System(), w.Tenant.ID, tenants.TenantChange{NextSecret: &wrong})
	if err != nil {
		t.Fatal(err)
	}
	session, code := w.Return(t, w.Tenant, "ada", workspaceA, nil)
	rotate(t, w, "a-third-one")
	apitest.WantProblem(t, w.Complete(t, w.Tenant.Key, session, code, "ada"), http.StatusConflict, "restart-connect")
	if saw := w.Sim.Ledger(t).Counters; saw.CodeExchanges != 2 || saw.Replays != 0 {
		t.Errorf("Prisma saw %+v, want two presentations", saw)
	}
	if got := apitest.Query[string](t, w, `SELECT failure FROM connect_sessions`); got != "client_refused" {
		t.Errorf("the session failed with %q", got)
	}
}
