package oauthflow

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
)

// maxParameter bounds state and code; honest ones have under 200 bytes.
const maxParameter = 2048

// CallbackProblem says why a callback leads nowhere; each has a page of its own.
type CallbackProblem string

// The problems.
const (
	// CallbackBad: not an answer that Prisma gives, or one for somebody else.
	CallbackBad CallbackProblem = "bad"
	// CallbackNoCookie: the browser kept no cookie of this flow: blocked, another
	// browser, or cleared.
	CallbackNoCookie CallbackProblem = "no_cookie"
	// CallbackSpent: the session was finished or restarted meanwhile.
	CallbackSpent CallbackProblem = "spent"
)

// CallbackResult is where the callback leads: to the partner, to a page that says
// connected, or to a page that says why not.
type CallbackResult struct {
	Redirect string          // a URL below the partner's registered one; "" otherwise
	Cookie   *http.Cookie    // removes the flow's cookie; nil when there is none to remove
	Problem  CallbackProblem // "": none
	Session  tenants.Session // zero with CallbackBad

	// With automatic completion:
	PartnerName string
	Connected   bool
	Connection  tenants.Connection
	Denied      bool
	Expired     bool
	Failed      bool
	Pending     bool                   // Prisma takes long; the exchange goes on
	Changed     *WorkspaceChangedError // the user chose another workspace
}

// Callback takes what Prisma sent the browser back with. Whatever is wrong with
// it, no token request is made: that needs the cookie of the browser that began,
// the latest state, and a session that was not consumed before.
//
// An error is internal; everything a browser can cause is in the result.
func (f *Flow) Callback(r *http.Request, by tenants.Actor) (CallbackResult, error) {
	answer, ok := parseAnswer(r)
	if !ok || f.cfg.OAuth.CheckIssuer(r.URL.Query()) != nil {
		return CallbackResult{Problem: CallbackBad}, nil //nolint:nilerr // a page, not a failure
	}
	x, err := f.cfg.Store.SessionByID(r.Context(), answer.session)
	if fault.KindOf(err) == fault.NotFound {
		return CallbackResult{Problem: CallbackBad}, nil
	}
	if err != nil {
		return CallbackResult{}, err
	}
	cookie, err := f.cookies.open(r, x.ID)
	if errors.Is(err, errNoCookie) {
		if x.MatchesState(answer.state) && x.Status == tenants.SessionExpired {
			// The cookie lives as long as the session: whoever took too long has neither.
			return CallbackResult{Expired: true, Session: x}, nil
		}
		problem := CallbackNoCookie
		if x.MatchesState(answer.state) && !x.Open() && x.Status != tenants.SessionExpired {
			problem = CallbackSpent // a reload: the cookie went with the first answer
		}
		return CallbackResult{Problem: problem, Session: x}, nil
	}
	if err != nil || !f.agrees(cookie, answer, x) {
		return CallbackResult{Problem: CallbackBad, Cookie: forget(x.ID)}, nil //nolint:nilerr // a page, not a failure
	}
	// From here on the browser has proved itself. A state that is not the row's
	// latest belongs to an earlier click, whose cookie was replaced; then the
	// cookie could not have agreed.
	if !x.MatchesState(answer.state) || !x.MatchesClient(cookie.ClientID, cookie.RedirectURI) {
		return CallbackResult{Problem: CallbackSpent, Cookie: forget(x.ID), Session: x}, nil
	}
	by = user(by, x)
	switch {
	case x.Status == tenants.SessionExpired:
		return f.expire(r.Context(), by, x)
	case x.Status != tenants.SessionStarted:
		return CallbackResult{Problem: CallbackSpent, Cookie: forget(x.ID), Session: x}, nil
	case answer.err != "":
		return f.refuse(r.Context(), by, x, answer.err)
	}
	return f.accept(r.Context(), by, x, tenants.Return{State: answer.state, Code: answer.code, Verifier: cookie.Verifier})
}

type answer struct {
	session tenants.SessionID
	state   string
	code    string
	err     string
}

// parseAnswer reads the query strictly: each parameter once, no empty one, either
// a code or an error.
func parseAnswer(r *http.Request) (answer, bool) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return answer{}, false
	}
	for _, name := range []string{"state", "code", "error", "iss"} {
		values, present := query[name]
		if present && (len(values) != 1 || values[0] == "" || len(values[0]) > maxParameter) {
			return answer{}, false
		}
	}
	a := answer{state: query.Get("state"), code: query.Get("code"), err: query.Get("error")}
	var ok bool
	a.session, ok = sessionOfState(a.state)
	return a, ok && (a.code == "") != (a.err == "")
}

// agrees compares the cookie with the answer and with this service, in constant
// time, without stopping at the first difference.
func (f *Flow) agrees(c flowCookie, a answer, x tenants.Session) bool {
	same := 1
	for _, pair := range [][2]string{
		{c.State, a.state},
		{c.SessionText, x.ID.String()},
		{c.Tenant, x.Tenant.String()},
		{c.Issuer, f.cfg.OAuth.Issuer()},
		{c.RedirectURI, f.RedirectURI()},
	} {
		same &= subtle.ConstantTimeCompare([]byte(pair[0]), []byte(pair[1]))
		same &= subtle.ConstantTimeLessOrEq(1, len(pair[0]))
	}
	return same == 1 && c.Verifier != "" && c.ClientID != ""
}

// refuse ends a session that Prisma answered with an error. Only a "no" of the
// user is told apart; other texts from a query are never passed on.
func (f *Flow) refuse(ctx context.Context, by tenants.Actor, x tenants.Session, oauthError string) (CallbackResult, error) {
	end, word := tenants.Ending{Status: tenants.SessionFailed, Failure: "authorization_error"}, "failed"
	if oauthError == "access_denied" {
		end, word = tenants.Ending{Status: tenants.SessionDenied}, "access_denied"
	}
	ended, err := f.cfg.Store.EndSession(ctx, by, x, end, tenants.SessionStarted)
	if err != nil {
		return CallbackResult{}, err
	}
	if !ended {
		return CallbackResult{Problem: CallbackSpent, Cookie: forget(x.ID), Session: x}, nil
	}
	return f.backToPartner(ctx, x, word)
}

func (f *Flow) expire(ctx context.Context, by tenants.Actor, x tenants.Session) (CallbackResult, error) {
	_, err := f.cfg.Store.EndSession(ctx, by, x, tenants.Ending{Status: tenants.SessionExpired},
		tenants.SessionCreated, tenants.SessionStarted)
	if err != nil {
		return CallbackResult{}, err
	}
	return f.backToPartner(ctx, x, "expired")
}

// backToPartner answers with an error word: at the partner's URL, or on a page of
// ours with automatic completion.
func (f *Flow) backToPartner(ctx context.Context, x tenants.Session, word string) (CallbackResult, error) {
	result := CallbackResult{
		Cookie: forget(x.ID), Session: x,
		Denied: word == "access_denied", Expired: word == "expired", Failed: word == "failed",
	}
	if x.Completion == tenants.CompletionAutomatic {
		tenant, err := f.cfg.Store.Tenant(ctx, x.Tenant)
		result.PartnerName = tenant.Name
		return result, err
	}
	var err error
	result.Redirect, err = withQuery(x.ReturnURL, url.Values{"sessionId": {x.ID.String()}, "error": {word}})
	return result, err
}

func (f *Flow) accept(ctx context.Context, by tenants.Actor, x tenants.Session, back tenants.Return) (CallbackResult, error) {
	tenant, err := f.cfg.Store.Tenant(ctx, x.Tenant)
	if err != nil {
		return CallbackResult{}, err
	}
	if tenant.Paused {
		return f.refuse(ctx, by, x, "tenant paused")
	}
	if x.Completion == tenants.CompletionAutomatic {
		if !f.enter() {
			return CallbackResult{}, errClosing()
		}
		defer f.running.Done()
	}
	client, err := f.cfg.Store.OAuthClientOf(ctx, x.Tenant) // before the session is consumed
	if err != nil {
		return CallbackResult{}, fmt.Errorf("callback: %w", err)
	}
	completionCode, err := f.cfg.Store.ReturnSession(ctx, by, x, back)
	if fault.KindOf(err) == fault.NotFound {
		return CallbackResult{Problem: CallbackSpent, Cookie: forget(x.ID), Session: x}, nil
	}
	if err != nil {
		return CallbackResult{}, err
	}
	if x.Completion == tenants.CompletionAutomatic {
		return f.completeHere(ctx, by, x, tenant.Name, client, back)
	}
	target, err := withQuery(x.ReturnURL, url.Values{"sessionId": {x.ID.String()}, "completionCode": {completionCode}})
	return CallbackResult{Redirect: target, Cookie: forget(x.ID), Session: x}, err
}

// completeHere is automatic completion: the token request in the callback.
func (f *Flow) completeHere(ctx context.Context, by tenants.Actor, x tenants.Session, partner string,
	client tenants.OAuthClient, back tenants.Return,
) (CallbackResult, error) {
	result := CallbackResult{Cookie: forget(x.ID), Session: x, PartnerName: partner}
	clientID, redirectURI := x.StartedWith()
	var err error
	result.Connection, err = f.exchange(ctx, by, tenants.Completing{
		Session: x, Code: back.Code, Verifier: back.Verifier, ClientID: clientID, RedirectURI: redirectURI,
	}, client)
	if change, ok := errors.AsType[*WorkspaceChangedError](err); ok {
		result.Changed = change
		return result, nil
	}
	result.Failed = fault.KindOf(err) == fault.RestartConnect
	result.Pending = fault.KindOf(err) == fault.CompletionInProgress
	if result.Failed || result.Pending {
		return result, nil
	}
	result.Connected = err == nil
	return result, err
}

func errAttr(err error) slog.Attr { return slog.String("error", err.Error()) }
