package httpapi

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/httpapi/contract"
	"github.com/connect-prisma/server/internal/oauthflow"
	"github.com/connect-prisma/server/internal/tenants"
)

// sessionOf renders a connect session; link is its URL in the answer that made it, ""
// otherwise.
func sessionOf(x tenants.Session, link string) contract.ConnectSession {
	shown := contract.ConnectSession{
		ID: x.ID.String(), Status: contract.ConnectSessionStatus(x.Status), URL: orNull(link),
		ExpiresAt: x.ExpiresAt.UTC(), UserID: x.UserID,
	}
	if connection := cmp.Or(x.Result, x.ConnectionID); connection != (tenants.ConnectionID{}) {
		id := connection.String()
		shown.ConnectionID = &id
	}
	return shown
}

// CreateConnectSession serves POST /v1/connect-sessions.
func (h handlers) CreateConnectSession(ctx context.Context, r contract.CreateConnectSessionRequestObject,
) (contract.CreateConnectSessionResponseObject, error) {
	in := tenants.NewSession{
		UserID: r.Body.UserID, UserLabel: deref(r.Body.UserLabel), ReturnURL: deref(r.Body.ReturnURL),
		RestartURL: deref(r.Body.RestartURL), Completion: tenants.Completion(deref(r.Body.Completion)),
		Life: time.Duration(deref(r.Body.ExpiresInSeconds)) * time.Second,
	}
	if r.Body.ConnectionID != nil {
		id, err := tenants.ParseConnectionID(*r.Body.ConnectionID)
		if err != nil {
			return nil, fault.New(fault.NotFound, "There is no such connection.", err).
				WithField("/connectionId", "Name one of your connections, or leave it out.")
		}
		in.ConnectionID = id
	}
	session, link, err := h.cfg.Flow.CreateSession(ctx, actorOf(ctx), tenantOf(ctx), in)
	if err != nil {
		return nil, err
	}
	location := "/v1/connect-sessions/" + session.ID.String()
	return contract.CreateConnectSession201JSONResponse{
		Body:    contract.ConnectSessionAnswer{Data: sessionOf(session, link)},
		Headers: contract.CreateConnectSession201ResponseHeaders{Location: &location},
	}, nil
}

// GetConnectSession serves GET /v1/connect-sessions/{sessionId}.
func (h handlers) GetConnectSession(ctx context.Context, r contract.GetConnectSessionRequestObject,
) (contract.GetConnectSessionResponseObject, error) {
	id, err := sessionID(r.SessionID)
	if err != nil {
		return nil, err
	}
	session, err := h.cfg.Flow.Session(ctx, tenantOf(ctx), id)
	if err != nil {
		return nil, err
	}
	return contract.GetConnectSession200JSONResponse{Data: sessionOf(session, "")}, nil
}

// CompleteConnectSession serves POST /v1/connect-sessions/{sessionId}/complete.
func (h handlers) CompleteConnectSession(ctx context.Context, r contract.CompleteConnectSessionRequestObject,
) (contract.CompleteConnectSessionResponseObject, error) {
	id, err := sessionID(r.SessionID)
	if err != nil {
		return nil, err
	}
	connection, err := h.cfg.Flow.Complete(ctx, actorOf(ctx), tenantOf(ctx), id, r.Body.CompletionCode, r.Body.UserID)
	if err != nil {
		return nil, explainChange(err)
	}
	return contract.CompleteConnectSession200JSONResponse{Data: h.connection(connection)}, nil
}

// explainChange names both workspaces and the way to try again.
func explainChange(err error) error {
	change, ok := errors.AsType[*oauthflow.WorkspaceChangedError](err)
	if !ok {
		return err
	}
	changed := fault.New(fault.WorkspaceChanged, "The user chose another workspace; the connection was left as it is.", err).
		WithExtra("expected", contract.Workspace{ID: change.ExpectedID, Name: change.ExpectedName}).
		WithExtra("chosen", contract.Workspace{ID: change.ChosenID, Name: change.ChosenName})
	if change.URL != "" {
		changed = changed.WithExtra("url", change.URL).WithExtra("sessionId", change.Session.String())
	}
	return changed
}
