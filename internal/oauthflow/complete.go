package oauthflow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

const (
	// nameTimeout bounds the question for a workspace's name.
	nameTimeout = 5 * time.Second
	// adoptTimeout bounds the note that a client's next secret is in use.
	adoptTimeout = 10 * time.Second
	// againWithin is how soon a client's secret must be refused for the code to be presented
	// with another one: with a whole exchange and a whole save after it, a completion must
	// not take longer than it counts as alive (tenants' three minutes).
	againWithin = 20 * time.Second
	// The pause between attempts to save a grant doubles from one to the other.
	savePauseFrom = 50 * time.Millisecond
	savePauseTo   = 2 * time.Second
)

// WorkspaceChangedError is the error of a reconnect that came back from another
// workspace. Nothing was changed; the other grant was dropped.
type WorkspaceChangedError struct {
	ExpectedID, ExpectedName string
	ChosenID, ChosenName     string
	Session                  tenants.SessionID // a fresh session for another try; zero if none could be made
	URL                      string            // and its one-time URL; "" without

	cause error
}

// Error says what happened, for the log.
func (e *WorkspaceChangedError) Error() string {
	return fmt.Sprintf("the user chose workspace %s instead of %s", e.ChosenID, e.ExpectedID)
}

// Unwrap returns a fault.WorkspaceChanged.
func (e *WorkspaceChangedError) Unwrap() error { return e.cause }

// Complete redeems a completion code: it makes the session's one token request
// and returns the connection. The same code and user again give the same
// connection without a request.
//
// Errors: those of tenants.Store.ClaimCompletion; *WorkspaceChangedError;
// fault.RestartConnect when Prisma refused the code or the outcome is unknown;
// fault.CompletionInProgress when Prisma takes longer than callers wait: the
// exchange goes on, and the same call finds its result.
func (f *Flow) Complete(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, id tenants.SessionID,
	code, userID string,
) (tenants.Connection, error) {
	if f.enter() {
		defer f.running.Done()
	} else if x, err := f.cfg.Store.Session(ctx, tenant, id); err != nil || x.Status != tenants.SessionConnected {
		return tenants.Connection{}, cmp.Or(err, errClosing()) // an answer that is there can still be given
	}
	// Before the claim: once the code has left its row, nothing may fail that could
	// have failed before.
	client, err := f.cfg.Store.OAuthClientOf(ctx, tenant)
	if err != nil {
		return tenants.Connection{}, fmt.Errorf("complete: %w", err)
	}
	claim, err := f.cfg.Store.ClaimCompletion(ctx, by, tenant, id, code, userID)
	if err != nil {
		return tenants.Connection{}, err
	}
	if claim.Done {
		return claim.Connection, nil
	}
	return f.exchange(ctx, by, claim, client)
}

// exchange runs the exchange detached from the caller: a code is spent once it is
// sent, so hanging up would lose the grant.
func (f *Flow) exchange(ctx context.Context, by tenants.Actor, claim tenants.Completing, client tenants.OAuthClient,
) (tenants.Connection, error) {
	type outcome struct {
		connection tenants.Connection
		err        error
	}
	done := make(chan outcome, 1)
	detached := context.WithoutCancel(ctx)
	f.running.Go(func() {
		var out outcome
		defer func() {
			if recover() != nil { // nobody else could, on this goroutine
				f.cfg.Logger.ErrorContext(detached, "completion panicked", slog.String("stack", string(debug.Stack())))
				out.err = f.fail(detached, by, claim.Session, "outcome_unknown")
			}
			done <- out
		}()
		out.connection, out.err = f.exchangeNow(detached, by, claim, client)
	})
	patience := time.NewTimer(f.cfg.CompletionWait)
	defer patience.Stop()
	select {
	case out := <-done:
		return out.connection, out.err
	case <-patience.C:
	case <-ctx.Done():
	}
	return tenants.Connection{}, fault.New(fault.CompletionInProgress, "Prisma takes long to answer; ask again.", ctx.Err()).
		WithRetryAfter(2 * time.Second)
}

func (f *Flow) exchangeNow(ctx context.Context, by tenants.Actor, claim tenants.Completing, client tenants.OAuthClient,
) (tenants.Connection, error) {
	x := claim.Session
	log := f.cfg.Logger.With(slog.String("session", x.ID.String()), slog.String("tenant", x.Tenant.String()))
	if client.ID != claim.ClientID {
		// The tenant's client was replaced while the user was away: the code belongs
		// to the old one.
		log.WarnContext(ctx, "code not exchanged: the tenant has another OAuth client by now")
		return tenants.Connection{}, f.fail(ctx, by, x, "client_changed")
	}
	begun := f.cfg.Now()
	grant, err := f.redeem(ctx, claim, prisma.OAuthClient(client), log)
	if err != nil {
		log.WarnContext(ctx, "code not exchanged", errAttr(err))
		return tenants.Connection{}, f.fail(ctx, by, x, failureOf(err))
	}
	tokens := grant.Tokens(x.ReadAt())
	connection, err := f.save(ctx, by, x, client.ID, tokens)
	if fault.KindOf(err) == fault.WorkspaceChanged {
		return tenants.Connection{}, f.workspaceChanged(ctx, by, x, connection, tokens, err)
	}
	if err != nil {
		log.ErrorContext(ctx, "grant not saved", errAttr(err))
		if fault.KindOf(err) == fault.RestartConnect {
			return tenants.Connection{}, err
		}
		return tenants.Connection{}, f.fail(ctx, by, x, "not_saved")
	}
	if connection.WorkspaceName == "" {
		connection.WorkspaceName = f.nameConnection(ctx, connection, tokens)
	}
	log.InfoContext(ctx, "connected", slog.String("connection", connection.ID.String()),
		slog.Duration("took", f.cfg.Now().Sub(begun)))
	return connection, nil
}

// redeem makes the session's one token request. Only if Prisma does not take the client's
// secret, and there is another one, is the code presented again: it was not looked at, and if
// it was after all, nothing is lost that would not be lost without (docs/decisions/0011).
// Not after againWithin, since completions end after a time.
func (f *Flow) redeem(ctx context.Context, claim tenants.Completing, client prisma.OAuthClient, log *slog.Logger,
) (prisma.Grant, error) {
	present := func(as prisma.OAuthClient) (prisma.Grant, error) {
		return f.cfg.OAuth.ExchangeCode(ctx, prisma.OAuthClient{ID: as.ID, Secret: as.Secret},
			claim.RedirectURI, claim.Code, claim.Verifier)
	}
	begun := f.cfg.Now()
	grant, err := present(client)
	if !prisma.SecretRefused(err) || f.cfg.Now().Sub(begun) > againWithin {
		return grant, err
	}
	stored, unread := f.cfg.Store.OAuthClientOf(ctx, claim.Session.Tenant) // it may have been replaced meanwhile
	other, ok := prisma.OAuthClient(stored).Besides(client.Secret)
	if unread != nil || !ok || other.ID != client.ID {
		return grant, err
	}
	log.WarnContext(ctx, "Prisma does not take the client's secret; there is another one, which is tried")
	if grant, err = present(other); err != nil || other.Secret == stored.Secret {
		return grant, err
	}
	f.adopted(ctx, claim.Session.Tenant, tenants.OAuthClient(other), log)
	return grant, nil
}

// adopted makes a secret that has worked the client's current one, behind the completion:
// the grant in its hands is to be saved first. If that fails the next request finds out.
func (f *Flow) adopted(ctx context.Context, tenant tenants.TenantID, client tenants.OAuthClient, log *slog.Logger) {
	f.running.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, adoptTimeout)
		defer cancel()
		if _, err := f.cfg.Store.AdoptClientSecret(ctx, tenants.System(), tenant, client); err != nil {
			log.WarnContext(ctx, "the client's next secret is in use and could not be made its current one", errAttr(err))
		}
	})
}

func failureOf(err error) string {
	if e, ok := errors.AsType[*prisma.TokenError](err); ok {
		switch e.Class {
		case prisma.InvalidGrant:
			return "code_refused"
		case prisma.Misconfigured:
			return "client_refused"
		case prisma.NotSent:
			return "prisma_unreachable"
		case prisma.Unknown:
		}
	}
	return "outcome_unknown"
}

// fail ends a completing session and returns what the caller is told.
func (f *Flow) fail(ctx context.Context, by tenants.Actor, x tenants.Session, why string) error {
	_, err := f.cfg.Store.EndSession(ctx, by, x, tenants.Ending{Status: tenants.SessionFailed, Failure: why},
		tenants.SessionCompleting)
	return fault.New(fault.RestartConnect, "The connection could not be completed; begin a new connect session.", err)
}

// save stores the grant, again and again while the database is away: it is the
// only copy.
func (f *Flow) save(ctx context.Context, by tenants.Actor, x tenants.Session, clientID string, tokens prisma.Tokens,
) (tenants.Connection, error) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.SaveFor)
	defer cancel()
	for pause := savePauseFrom; ; pause = min(2*pause, savePauseTo) {
		connection, err := f.cfg.Store.FinishSession(ctx, by, x, clientID, tokens)
		if err == nil || fault.KindOf(err) != fault.Internal {
			return connection, err
		}
		if class := postgres.SQLSTATE(err); strings.HasPrefix(class, "22") || strings.HasPrefix(class, "23") {
			return connection, err // the row itself is refused, now and later
		}
		f.cfg.Logger.WarnContext(ctx, "grant not saved yet", errAttr(err))
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return tenants.Connection{}, err
		}
	}
}

// nameConnection asks for the workspace's name and keeps it; "" when it could not
// be had. The job that was stored with the grant tries again.
func (f *Flow) nameConnection(ctx context.Context, c tenants.Connection, tokens prisma.Tokens) string {
	name := f.workspaceName(ctx, tokens)
	if name == "" {
		return ""
	}
	if err := f.cfg.Store.NameWorkspace(ctx, c.Tenant, c.ID, name); err != nil {
		f.cfg.Logger.WarnContext(ctx, "workspace name not kept", errAttr(err))
	}
	return name
}

// NameWorkspace reads the name of a connection's workspace from Prisma, unless it
// is known. A connection that is gone or broken is no error: there is nothing to
// name.
func (f *Flow) NameWorkspace(ctx context.Context, tenant tenants.TenantID, id tenants.ConnectionID) error {
	c, err := f.cfg.Store.Connection(ctx, tenant, id)
	if fault.KindOf(err) == fault.NotFound {
		return nil
	}
	if err != nil || c.WorkspaceName != "" {
		return err
	}
	err = f.cfg.Caller.Call(ctx, f.cfg.Store.PrismaConnection(tenant, id), func(ctx context.Context, client *prisma.Client) error {
		workspace, err := client.GetWorkspace(ctx, c.WorkspaceID)
		if err != nil {
			return err
		}
		return f.cfg.Store.NameWorkspace(ctx, tenant, id, workspace.Name)
	})
	if fault.KindOf(err) == fault.ReconnectRequired {
		return nil
	}
	return err
}

// workspaceChanged names both workspaces and makes a fresh session, so that the
// user can try again at once. The grant it drops is never stored.
func (f *Flow) workspaceChanged(ctx context.Context, by tenants.Actor, x tenants.Session, pinned tenants.Connection,
	dropped prisma.Tokens, cause error,
) error {
	change := &WorkspaceChangedError{
		ExpectedID: pinned.WorkspaceID, ExpectedName: nameOf(pinned),
		ChosenID: dropped.WorkspaceID, ChosenName: dropped.WorkspaceID, cause: cause,
	}
	if name := f.workspaceName(ctx, dropped); name != "" {
		change.ChosenName = name
	}
	fresh, link, err := f.CreateSession(ctx, by, x.Tenant, tenants.NewSession{
		UserID: x.UserID, UserLabel: x.UserLabel, ReturnURL: x.ReturnURL, RestartURL: x.RestartURL,
		ConnectionID: x.ConnectionID, Completion: x.Completion,
	})
	if err != nil { // such as a return URL that is no longer registered
		f.cfg.Logger.WarnContext(ctx, "no session for another try", errAttr(err))
		return change
	}
	change.Session, change.URL = fresh.ID, link
	return change
}
