package oauthflow

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// Invitation is what the connect page shows.
type Invitation struct {
	Session       tenants.Session
	PartnerName   string
	WorkspaceName string // the workspace to choose again; "" without a reconnect

	// Cookie marks the browser, so that it can repeat its click; nil when it is
	// marked already.
	Cookie *http.Cookie
}

// Invite returns what the page behind a one-time link shows. It changes nothing.
// Unknown, used, expired and foreign links are all the same fault.NotFound; one
// that was started is foreign to every browser but its own.
func (f *Flow) Invite(r *http.Request, link string) (Invitation, error) {
	x, err := f.cfg.Store.SessionByLink(r.Context(), link)
	if err != nil {
		return Invitation{}, err
	}
	marked, err := f.startedHere(r, x)
	if err != nil {
		return Invitation{}, err
	}
	tenant, err := f.cfg.Store.Tenant(r.Context(), x.Tenant)
	if err != nil {
		return Invitation{}, err
	}
	if tenant.Paused {
		return Invitation{}, errGone()
	}
	invitation := Invitation{Session: x, PartnerName: tenant.Name}
	if marked == "" && !crowded(r) {
		invitation.Cookie, err = f.cookies.seal(flowCookie{Browser: tenants.RandomToken(), Session: x.ID})
		if err != nil {
			return Invitation{}, fmt.Errorf("invite: seal cookie: %w", err)
		}
	}
	if x.ConnectionID != (tenants.ConnectionID{}) {
		pinned, err := f.cfg.Store.Connection(r.Context(), x.Tenant, x.ConnectionID)
		if fault.KindOf(err) == fault.NotFound {
			return Invitation{}, errGone() // disconnected meanwhile
		}
		if err != nil {
			return Invitation{}, err
		}
		invitation.WorkspaceName = nameOf(pinned)
	}
	return invitation, nil
}

// maxMarks bounds the cookies that pages set without a click: a site that opens
// link after link in somebody's browser must not fill its headers.
const maxMarks = 20

func crowded(r *http.Request) bool {
	n := 0
	for _, cookie := range r.Cookies() {
		if strings.HasPrefix(cookie.Name, cookiePrefix) {
			n++
		}
	}
	return n >= maxMarks
}

func errGone() error { return fault.New(fault.NotFound, "This link can't be used (any more).", nil) }

// startedHere returns the secret that marks this browser, "" when it has none yet;
// fault.NotFound when the session is over or another browser's.
func (f *Flow) startedHere(r *http.Request, x tenants.Session) (string, error) {
	if !x.Open() {
		return "", errGone()
	}
	cookie, err := f.cookies.open(r, x.ID)
	if x.Status == tenants.SessionStarted && (err != nil || !x.MatchesBrowser(cookie.Browser)) {
		return "", errGone()
	}
	return cookie.Browser, nil // "" without a usable cookie: not marked
}

// Begin is the click: it fixes a new state and verifier, and returns the URL of
// Prisma's consent page and the cookie for this browser. It may be repeated by
// the same browser while the link lives; what the click before had fixed is then
// void. fault.NotFound as Invite.
func (f *Flow) Begin(r *http.Request, by tenants.Actor, link string) (string, *http.Cookie, error) {
	ctx := r.Context()
	x, err := f.cfg.Store.SessionByLink(ctx, link)
	if err != nil {
		return "", nil, err
	}
	browser, err := f.startedHere(r, x)
	if err != nil {
		return "", nil, err
	}
	browser = cmp.Or(browser, tenants.RandomToken())
	tenant, err := f.cfg.Store.Tenant(ctx, x.Tenant)
	if err != nil {
		return "", nil, err
	}
	if tenant.Paused {
		return "", nil, errGone()
	}
	client, err := f.cfg.Store.OAuthClientOf(ctx, x.Tenant)
	if err != nil {
		return "", nil, fmt.Errorf("begin: %w", err)
	}
	content := flowCookie{
		Browser: browser, State: newState(x.ID), Verifier: prisma.NewVerifier(), Session: x.ID, Tenant: x.Tenant.String(),
		ClientID: client.ID, Issuer: f.cfg.OAuth.Issuer(), RedirectURI: f.RedirectURI(),
	}
	target, err := f.cfg.OAuth.AuthorizationURL(prisma.AuthorizationRequest{
		ClientID: content.ClientID, RedirectURI: content.RedirectURI, State: content.State, Verifier: content.Verifier,
	})
	if err != nil {
		return "", nil, fmt.Errorf("begin: %w", err)
	}
	cookie, err := f.cookies.seal(content)
	if err != nil {
		return "", nil, fmt.Errorf("begin: seal cookie: %w", err)
	}
	err = f.cfg.Store.StartSession(ctx, user(by, x), x, tenants.Start{
		State: content.State, Browser: browser, ClientID: content.ClientID, RedirectURI: content.RedirectURI,
	})
	if err != nil {
		return "", nil, err
	}
	return target, cookie, nil
}

// A state is the session's id, a dot, and 32 random bytes: the id leads the
// callback to its row and cookie, the rest proves the right to them.
func newState(id tenants.SessionID) string { return id.String() + "." + tenants.RandomToken() }

const stateRandomLength = 43

func sessionOfState(state string) (tenants.SessionID, bool) {
	text, random, found := strings.Cut(state, ".")
	id, err := tenants.ParseSessionID(text)
	return id, found && err == nil && len(random) == stateRandomLength
}

func nameOf(c tenants.Connection) string {
	if c.WorkspaceName != "" {
		return c.WorkspaceName
	}
	return c.WorkspaceID
}

// workspaceName asks Prisma what a fresh token's workspace is called. "" when it
// can't tell now: a name is never worth a grant.
func (f *Flow) workspaceName(ctx context.Context, tokens prisma.Tokens) string {
	ctx, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	workspace, err := f.cfg.API.WithToken(tokens.Access).GetWorkspace(ctx, tokens.WorkspaceID)
	if err != nil {
		f.cfg.Logger.WarnContext(ctx, "workspace name not read", errAttr(err))
		return ""
	}
	return workspace.Name
}
