package oauthflow_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/tenants"
)

// TestAReplicaThatStopsBeginsNoCompletion: the code stays where it is, for another
// replica.
func TestAReplicaThatStopsBeginsNoCompletion(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	session, code := w.Return(t, w.Tenant, "ada", workspaceA, nil)
	if err := w.Flow.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	answer := w.Complete(t, w.Tenant.Key, session, code, "ada")
	apitest.WantProblem(t, answer, http.StatusConflict, "completion-in-progress")
	if got, n := w.GetSession(t, w.Tenant, session).Status, w.Sim.Ledger(t).Counters.CodeExchanges; got != string(tenants.SessionReturned) || n != 0 {
		t.Errorf("the session is %s after %d token requests", got, n)
	}
}

// TestAReturnAfterTheSessionsEnd: the cookie has gone with the session, and the
// page speaks of the time and not of cookies.
func TestAReturnAfterTheSessionsEnd(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	b := begin(t, w, "ada")
	w.Advance(t, 11*time.Minute)
	late := w.NewBrowser().Do(t, http.MethodGet, b.callback.String(), nil)
	if late.Status != http.StatusGone {
		t.Errorf("status %d: %s", late.Status, late.Heading(t))
	}
	// Somebody who only knows the session's id learns nothing of it.
	guess := *b.callback
	guess.RawQuery = url.Values{"code": {"x"}, "state": {b.session.ID + "." + tenants.RandomToken()}}.Encode()
	if other := w.NewBrowser().Do(t, http.MethodGet, guess.String(), nil); other.Status != http.StatusBadRequest {
		t.Errorf("another state: status %d", other.Status)
	}
}
