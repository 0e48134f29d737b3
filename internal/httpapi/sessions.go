package httpapi

import (
	"errors"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/oauthflow"
	"github.com/connect-prisma/server/internal/tenants"
)

type sessionBody struct {
	ID           string    `json:"id"`
	Status       string    `json:"status"`
	URL          string    `json:"url,omitempty"` // shown once, when it is made
	ExpiresAt    time.Time `json:"expiresAt"`
	UserID       string    `json:"userId"`
	ConnectionID *string   `json:"connectionId"`
}

func newSessionBody(x tenants.Session, url string) sessionBody {
	body := sessionBody{
		ID: x.ID.String(), Status: string(x.Status), URL: url, ExpiresAt: x.ExpiresAt.UTC(), UserID: x.UserID,
	}
	connection := x.Result
	if connection == (tenants.ConnectionID{}) {
		connection = x.ConnectionID
	}
	if connection != (tenants.ConnectionID{}) {
		id := connection.String()
		body.ConnectionID = &id
	}
	return body
}

type createSessionRequest struct {
	UserID           *string `json:"userId"`
	UserLabel        *string `json:"userLabel"`
	ReturnURL        *string `json:"returnUrl"`
	RestartURL       *string `json:"restartUrl"`
	ConnectionID     *string `json:"connectionId"`
	Completion       *string `json:"completion"`
	ExpiresInSeconds *int64  `json:"expiresInSeconds"`
}

func (r createSessionRequest) parse() (tenants.NewSession, error) {
	if err := required("/userId", r.UserID); err != nil {
		return tenants.NewSession{}, err
	}
	in := tenants.NewSession{
		UserID: *r.UserID, UserLabel: deref(r.UserLabel), ReturnURL: deref(r.ReturnURL),
		RestartURL: deref(r.RestartURL), Completion: tenants.Completion(deref(r.Completion)),
	}
	if r.ConnectionID != nil {
		id, err := tenants.ParseConnectionID(*r.ConnectionID)
		if err != nil {
			return in, fault.New(fault.NotFound, "There is no such connection.", err).
				WithField("/connectionId", "Name one of your connections, or leave it out.")
		}
		in.ConnectionID = id
	}
	if r.ExpiresInSeconds != nil {
		seconds := *r.ExpiresInSeconds
		if seconds < 1 || seconds > int64(tenants.SessionLife.Seconds()) {
			return in, fault.New(fault.InvalidValue, "A connect session can't live that long or short.", nil).
				WithField("/expiresInSeconds", "Use 60 to 600 seconds.")
		}
		in.Life = time.Duration(seconds) * time.Second
	}
	for pointer, text := range map[string]*string{"/userLabel": r.UserLabel, "/completion": r.Completion, "/restartUrl": r.RestartURL} {
		if text != nil && *text == "" { // absent, each has a default; empty, it means nothing
			return in, fault.New(fault.InvalidValue, "A value is empty.", nil).WithField(pointer, "Give a value, or leave it out.")
		}
	}
	return in, nil
}

// createSession serves POST /v1/connect-sessions.
func (s *Server) createSession(c echo.Context) error {
	if _, err := query(c); err != nil {
		return err
	}
	request, err := decode[createSessionRequest](c)
	if err != nil {
		return err
	}
	in, err := request.parse()
	if err != nil {
		return err
	}
	session, link, err := s.cfg.Flow.CreateSession(c.Request().Context(), actorOf(c), callerOf(c).Tenant.ID, in)
	if err != nil {
		return err
	}
	c.Response().Header().Set(echo.HeaderLocation, "/v1/connect-sessions/"+session.ID.String())
	return send(c, http.StatusCreated, newSessionBody(session, link))
}

func sessionID(c echo.Context) (tenants.SessionID, error) {
	id, err := tenants.ParseSessionID(c.Param("session"))
	if err != nil {
		return id, fault.New(fault.NotFound, "There is no such connect session.", err)
	}
	return id, nil
}

// getSession serves GET /v1/connect-sessions/:session.
func (s *Server) getSession(c echo.Context) error {
	if _, err := query(c); err != nil {
		return err
	}
	id, err := sessionID(c)
	if err != nil {
		return err
	}
	session, err := s.cfg.Flow.Session(c.Request().Context(), callerOf(c).Tenant.ID, id)
	if err != nil {
		return err
	}
	return send(c, http.StatusOK, newSessionBody(session, ""))
}

type completeRequest struct {
	CompletionCode *string `json:"completionCode"`
	UserID         *string `json:"userId"`
}

// completeSession serves POST /v1/connect-sessions/:session/complete.
func (s *Server) completeSession(c echo.Context) error {
	if _, err := query(c); err != nil {
		return err
	}
	id, err := sessionID(c)
	if err != nil {
		return err
	}
	request, err := decode[completeRequest](c)
	if err != nil {
		return err
	}
	if err := firstOf(required("/completionCode", request.CompletionCode), required("/userId", request.UserID)); err != nil {
		return err
	}
	connection, err := s.cfg.Flow.Complete(c.Request().Context(), actorOf(c), callerOf(c).Tenant.ID, id,
		*request.CompletionCode, *request.UserID)
	if err != nil {
		return explainChange(err)
	}
	return send(c, http.StatusOK, s.newConnectionBody(connection))
}

// explainChange names both workspaces and the way to try again.
func explainChange(err error) error {
	change, ok := errors.AsType[*oauthflow.WorkspaceChangedError](err)
	if !ok {
		return err
	}
	changed := fault.New(fault.WorkspaceChanged, "The user chose another workspace; the connection was left as it is.", err).
		WithExtra("expected", workspaceBody{ID: change.ExpectedID, Name: change.ExpectedName}).
		WithExtra("chosen", workspaceBody{ID: change.ChosenID, Name: change.ChosenName})
	if change.URL != "" {
		changed = changed.WithExtra("url", change.URL).WithExtra("sessionId", change.Session.String())
	}
	return changed
}
