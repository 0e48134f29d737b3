package oauthflow_test

import (
	"context"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/oauthflow"
	"github.com/connect-prisma/server/internal/prisma"
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

// panicking is a token endpoint with a bug.
type panicking struct{ oauthflow.TokenEndpoint }

func (panicking) ExchangeCode(context.Context, prisma.OAuthClient, string, string, string) (prisma.Grant, error) {
	panic("bug")
}

// TestAPanicEndsOneCompletion: nobody else could catch it, and with the process
// would go the exchanges of other connections.
func TestAPanicEndsOneCompletion(t *testing.T) {
	t.Parallel()
	w := apitest.New(t, apitest.WithFlow(func(c *oauthflow.Config) { c.OAuth = panicking{c.OAuth} }))
	session, code := w.Return(t, w.Tenant, "ada", workspaceA, nil)
	apitest.WantProblem(t, w.Complete(t, w.Tenant.Key, session, code, "ada"), http.StatusConflict, "restart-connect")
	if got := w.GetSession(t, w.Tenant, session).Status; got != string(tenants.SessionFailed) {
		t.Errorf("the session is %s", got)
	}
}

// TestATenantPausedInMidFlowConnectsNobody: the user comes back, and nothing is
// exchanged.
func TestATenantPausedInMidFlowConnectsNobody(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	b := begin(t, w, "ada")
	w.Pause(t, w.Tenant, true)
	answer := b.browser.Do(t, http.MethodGet, b.callback.String(), nil)
	if got := answer.Query(t).Get("error"); got != "failed" {
		t.Errorf("status %d, error %q", answer.Status, got)
	}
	w.Pause(t, w.Tenant, false)
	if got, n := w.GetSession(t, w.Tenant, b.session.ID).Status, w.Sim.Ledger(t).Counters.CodeExchanges; got != string(tenants.SessionFailed) || n != 0 {
		t.Errorf("the session is %s after %d token requests", got, n)
	}
}

// TestLinksOpenedInALoopStopSettingCookies: a page that opens link after link in
// somebody's browser must not fill its headers. A click still works there.
func TestLinksOpenedInALoopStopSettingCookies(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	browser := w.NewBrowser()
	for range 25 {
		browser.Do(t, http.MethodGet, w.CreateSession(t, w.Tenant, "ada", nil).URL, nil)
	}
	if n := len(browser.Cookies); n != 20 {
		t.Errorf("%d cookies after 25 links, want 20", n)
	}
	last := w.CreateSession(t, w.Tenant, "ada", nil)
	if back := browser.Finish(t, last.URL, workspaceA); back.Status != http.StatusSeeOther {
		t.Errorf("a flow in that browser ends with %d", back.Status)
	}
}
