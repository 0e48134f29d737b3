package oauthflow_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/oauthflow"
)

func TestCompletionMisuse(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	foreign := w.NewTenant(t, "Other", nil)

	early := w.CreateSession(t, w.Tenant, "ada", nil)
	apitest.WantProblem(t, w.Complete(t, w.Tenant.Key, early.ID, "anything", "ada"), http.StatusConflict, "conflict")
	early.URL = w.NewBrowser().Click(t, early.URL)
	apitest.WantProblem(t, w.Complete(t, w.Tenant.Key, early.ID, "anything", "ada"), http.StatusConflict, "conflict")

	session, code := w.Return(t, w.Tenant, "ada", workspaceA, nil)
	_, otherCode := w.Return(t, w.Tenant, "ada", workspaceA, nil)
	for name, wrong := range map[string]string{
		"unknown": strings.Repeat("x", 43), "of another session": otherCode, "empty": "", "cut": code[:42], "longer": code + "A",
	} {
		if answer := w.Complete(t, w.Tenant.Key, session, wrong, "ada"); answer.Status != http.StatusNotFound {
			t.Errorf("code %s: %d, want 404", name, answer.Status)
		}
	}
	strange := apitest.WantProblem(t, w.Complete(t, foreign.Key, session, code, "ada"), http.StatusNotFound, "not-found")
	unknown := apitest.WantProblem(t, w.Complete(t, foreign.Key, early.ID[:len(early.ID)-4]+"aaaa", code, "ada"), http.StatusNotFound, "not-found")
	if strange.Detail != unknown.Detail {
		t.Errorf("another tenant's session can be told from none: %q, %q", strange.Detail, unknown.Detail)
	}
	mallory := apitest.WantProblem(t, w.Complete(t, w.Tenant.Key, session, code, "mallory"), http.StatusConflict, "conflict")
	if !mallory.Names("/userId") {
		t.Error("the problem does not name the user")
	}
	if n := w.Sim.Ledger(t).Counters.CodeExchanges; n != 0 {
		t.Fatalf("%d token requests for misuse", n)
	}

	// None of that spent the code.
	first := w.Complete(t, w.Tenant.Key, session, code, "ada")
	connection := apitest.Data[apitest.Connection](t, first)
	again := w.Complete(t, w.Tenant.Key, session, code, "ada")
	if string(again.Body) != string(first.Body) {
		t.Errorf("the same completion gave another answer:\n%s\n%s", first.Body, again.Body)
	}
	apitest.WantProblem(t, w.Complete(t, w.Tenant.Key, session, code, "mallory"), http.StatusConflict, "conflict")
	apitest.WantProblem(t, w.Complete(t, w.Tenant.Key, session, "wrong", "ada"), http.StatusNotFound, "not-found")
	w.DB.Advance(t, 9*time.Minute)
	if got := apitest.Data[apitest.Connection](t, w.Complete(t, w.Tenant.Key, session, code, "ada")); got.ID != connection.ID {
		t.Errorf("nine minutes later it is %s instead of %s", got.ID, connection.ID)
	}
	w.DB.Advance(t, 2*time.Minute)
	apitest.WantProblem(t, w.Complete(t, w.Tenant.Key, session, code, "ada"), http.StatusGone, "expired")
	n := w.Sim.Ledger(t).Counters.CodeExchanges
	t.Logf("misuse: 0 token requests; one right completion and its repetitions: %d", n)
	if n != 1 {
		t.Errorf("%d token requests", n)
	}
}

func TestALateCompletionIsGone(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	session, code := w.Return(t, w.Tenant, "ada", workspaceA, nil)
	w.DB.Advance(t, 46*time.Second)
	if got := w.GetSession(t, w.Tenant, session).Status; got != "expired" {
		t.Errorf("the session is %s", got)
	}
	for range 2 {
		apitest.WantProblem(t, w.Complete(t, w.Tenant.Key, session, code, "ada"), http.StatusGone, "expired")
	}
	if n := w.Sim.Ledger(t).Counters.CodeExchanges; n != 0 {
		t.Errorf("%d token requests", n)
	}
	if n := apitest.Query[int](t, w, `SELECT count(*)::int FROM connect_sessions WHERE code_sealed IS NOT NULL OR verifier_sealed IS NOT NULL`); n != 0 {
		t.Errorf("%d late codes are still kept", n)
	}
	if got := w.Events(t, w.Tenant); len(got) != 1 || got[0] != "connect_session.expired" {
		t.Errorf("events %v", got)
	}

	soon, code := w.Return(t, w.Tenant, "ada", workspaceA, nil)
	w.DB.Advance(t, 40*time.Second)
	if answer := w.Complete(t, w.Tenant.Key, soon, code, "ada"); answer.Status != http.StatusOK {
		t.Errorf("after 40 s: %d", answer.Status)
	}
}

// TestAFailedExchangeEndsTheSession: whatever becomes of the one token request, the
// user begins anew, and no connection is left half made.
func TestAFailedExchangeEndsTheSession(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fault  string // set to 1
		late   time.Duration
		reason string
	}{
		"the code has expired":            {late: 2 * time.Minute, reason: "code_refused"},
		"an answer of 500, processed":     {fault: "tokenFailAfter", reason: "outcome_unknown"},
		"the connection cut, processed":   {fault: "tokenDropAfter", reason: "outcome_unknown"},
		"an answer of 503, not processed": {fault: "tokenFailBefore", reason: "outcome_unknown"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := apitest.New(t)
			session, code := w.Return(t, w.Tenant, "ada", workspaceA, nil)
			if tc.late > 0 {
				w.AdvancePrisma(t, tc.late)
			} else {
				w.Faults(t, map[string]any{tc.fault: 1})
			}
			for range 3 {
				apitest.WantProblem(t, w.Complete(t, w.Tenant.Key, session, code, "ada"), http.StatusConflict, "restart-connect")
			}
			n := w.Sim.Ledger(t).Counters.CodeExchanges
			t.Logf("%s: %d token requests", name, n)
			if n > 1 {
				t.Errorf("%d token requests", n)
			}
			if got := w.GetSession(t, w.Tenant, session).Status; got != "failed" {
				t.Errorf("the session is %s", got)
			}
			if got := apitest.Query[string](t, w, "SELECT failure FROM connect_sessions"); got != tc.reason {
				t.Errorf("the reason is %s, want %s", got, tc.reason)
			}
			if n := apitest.Query[int](t, w, "SELECT count(*)::int FROM connections"); n != 0 {
				t.Errorf("%d connections are stored", n)
			}
			if got := w.Events(t, w.Tenant); len(got) != 1 || got[0] != "connect_session.failed" {
				t.Errorf("events %v", got)
			}
			w.Faults(t, map[string]any{"tokenFailAfter": 0, "tokenDropAfter": 0, "tokenFailBefore": 0})
			w.Connect(t, w.Tenant, "ada", workspaceA) // and the way is free
		})
	}
}

// TestACompletionOutlivesItsCaller: the partner stops waiting, the exchange goes on
// and the same call finds its result.
func TestACompletionOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	w := apitest.New(t, apitest.WithFlow(func(c *oauthflow.Config) { c.CompletionWait = 20 * time.Millisecond }))
	w.Faults(t, map[string]any{"tokenLatency": "500ms"})
	session, code := w.Return(t, w.Tenant, "ada", workspaceA, nil)
	for range 2 {
		answer := w.Complete(t, w.Tenant.Key, session, code, "ada")
		apitest.WantProblem(t, answer, http.StatusConflict, "completion-in-progress")
		if answer.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	automatic := w.CreateSession(t, w.Tenant, "bob", map[string]any{"completion": "automatic"})
	if page := w.NewBrowser().Finish(t, automatic.URL, workspaceA); page.Status != http.StatusAccepted || page.Heading(t) == "" {
		t.Errorf("the page of an automatic completion: %d", page.Status)
	}
	if err := w.Flow.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.GetSession(t, w.Tenant, automatic.ID).Status; got != "connected" {
		t.Errorf("the automatic session is %s", got)
	}
	connection := apitest.Data[apitest.Connection](t, w.Complete(t, w.Tenant.Key, session, code, "ada"))
	if n := w.Sim.Ledger(t).Counters.CodeExchanges; n != 2 || connection.Status != "active" {
		t.Errorf("%d token requests, the connection is %s", n, connection.Status)
	}
}
