package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/connect-prisma/server/client"
)

// home serves GET /: the user's connections, or the sign-in page.
func (a *app) home(w http.ResponseWriter, r *http.Request) {
	s, ok := a.sessions.read(r)
	if !ok {
		a.show(w, r, http.StatusOK, signInPage{Users: sampleUsers()})
		return
	}
	connections, err := a.connections(r.Context(), s.UserID)
	if err != nil {
		a.fail(w, r, s, err)
		return
	}
	page := newHomePage(s, connections)
	if s.Notice != "" {
		s.Notice = "" // shown once
		if err := a.sessions.write(w, s); err != nil {
			a.fail(w, r, s, err)
			return
		}
	}
	a.show(w, r, http.StatusOK, page)
}

// connections returns all that a user has and had. Those that were ended have to be asked
// for: a list without a status leaves them out.
func (a *app) connections(ctx context.Context, userID string) ([]client.Connection, error) {
	current, err := client.Collect(a.connect.AllConnections(ctx, client.ListConnectionsParams{UserID: userID}))
	if err != nil {
		return nil, err
	}
	ended, err := client.Collect(a.connect.AllConnections(ctx, client.ListConnectionsParams{
		UserID: userID, Status: client.ConnectionStatusDisconnected,
	}))
	if err != nil {
		return nil, err
	}
	return append(current, ended...), nil
}

// beginConnect serves POST /connect {connection?}: it begins a connect session for
// the user, notes it in their cookie and sends the browser to the one-time link.
// With a connection it repairs that one.
func (a *app) beginConnect(w http.ResponseWriter, r *http.Request, s session) error {
	connectionID := r.PostFormValue("connection")
	if connectionID != "" {
		if _, err := a.ownConnection(r, s, connectionID); err != nil {
			return err
		}
	}
	wish := client.CreateConnectSessionRequest{
		UserID: s.UserID, UserLabel: new(userLabel(s.UserID)),
		ReturnURL: new(a.publicURL.String() + "/callback"), Completion: new("code"),
	}
	if connectionID != "" {
		wish.ConnectionID = &connectionID
	}
	begun, err := a.connect.CreateConnectSession(r.Context(), wish)
	if err != nil {
		return err
	}
	link := value(begun.URL)
	if err := a.checkLink(link); err != nil {
		return err
	}
	s.begin(begun.ID)
	if err := a.sessions.write(w, s); err != nil {
		return err
	}
	http.Redirect(w, r, link, http.StatusSeeOther)
	return nil
}

// checkLink refuses a connect link that the browser could not follow because our
// own form-action forbids it: better a line in the log than a dead button.
func (a *app) checkLink(link string) error {
	u, err := url.Parse(link)
	if err != nil || u.Scheme != a.connectAt.Scheme || u.Host != a.connectAt.Host {
		return fmt.Errorf("the connect link does not lead to %s; is that where browsers reach the server?", a.connectAt)
	}
	return nil
}

// callback serves GET /callback?sessionId=&(completionCode=|error=), where the
// browser comes back from Prisma. See the package comment for the check that comes
// before anything else.
func (a *app) callback(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	id, code := query.Get("sessionId"), query.Get("completionCode")
	s, ok := a.sessions.read(r)
	if !ok || !s.began(id) {
		a.show(w, r, http.StatusForbidden, notYoursPage(s))
		return
	}
	if code == "" {
		a.endConnect(w, r, s, id, returnedPage(query.Get("error")), http.StatusOK)
		return
	}
	_, err := a.connect.CompleteConnectSession(r.Context(), id,
		client.CompleteConnectSessionRequest{CompletionCode: code, UserID: s.UserID})
	if err != nil {
		a.notCompleted(w, r, s, id, err)
		return
	}
	s.end(id)
	s.Notice = noticeConnected
	if err := a.sessions.write(w, s); err != nil {
		a.fail(w, r, s, err)
		return
	}
	// Away from the URL with the code, which is of no more use to anybody.
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// notCompleted decides between the two ways to fail: the session is over, or the
// very same call may be made again, which the server answers with the same
// connection.
func (a *app) notCompleted(w http.ResponseWriter, r *http.Request, s session, id string, err error) {
	problem, ok := errors.AsType[*client.Problem](err)
	switch {
	case ok && problem.Kind == client.WorkspaceChanged && a.checkLink(problem.URL) == nil:
		s.begin(problem.SessionID) // the fresh link's; pressing it leads back here
		page := workspaceChangedPage{
			Account: s.account(), Expected: problem.Expected, Chosen: problem.Chosen, URL: problem.URL,
		}
		a.endConnect(w, r, s, id, page, http.StatusConflict)
	case !ok || problem.Status >= http.StatusInternalServerError || problem.Status == http.StatusTooManyRequests ||
		problem.Kind == client.CompletionInProgress:
		a.completeAgain(w, r, s, err)
	default:
		page, status := explain(err)
		page.Account, page.Reconnect = s.account(), true
		a.endConnect(w, r, s, id, page, status)
	}
}

// completeAgain shows a page that loads the callback anew, by itself when the
// server said when.
func (a *app) completeAgain(w http.ResponseWriter, r *http.Request, s session, err error) {
	page, status := explain(err)
	page.Account = s.account()
	page.Link, page.LinkLabel = r.URL.RequestURI(), "Try again"
	if problem, ok := errors.AsType[*client.Problem](err); ok && problem.Kind == client.CompletionInProgress {
		wait := cmp.Or(problem.RetryAfter, time.Second)
		w.Header().Set("Refresh", strconv.Itoa(int(wait.Seconds())))
	} else {
		a.logFailure(r, err)
	}
	a.show(w, r, status, page)
}

// endConnect forgets a connect session that is over and shows how it ended.
func (a *app) endConnect(w http.ResponseWriter, r *http.Request, s session, id string, page view, status int) {
	s.end(id)
	if err := a.sessions.write(w, s); err != nil {
		a.fail(w, r, s, err)
		return
	}
	a.show(w, r, status, page)
}

// disconnect serves POST /connections/{connection}/disconnect.
func (a *app) disconnect(w http.ResponseWriter, r *http.Request, s session) error {
	own, err := a.ownConnection(r, s, r.PathValue("connection"))
	if err != nil {
		return err
	}
	done, err := a.connect.DeleteConnection(r.Context(), own.ID, client.DeleteConnectionParams{})
	if err != nil {
		return err
	}
	s.Notice = noticeDisconnected
	if done.IntegrationRemoved {
		s.Notice = noticeDisconnectedRemoved
	}
	if err := a.sessions.write(w, s); err != nil {
		return err
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}

// ownConnection returns a connection of the signed-in user. The API key may see
// those of every user, so somebody else's is answered like one that is not there.
func (a *app) ownConnection(r *http.Request, s session, id string) (client.Connection, error) {
	c, err := a.connect.GetConnection(r.Context(), id)
	if err != nil {
		return client.Connection{}, err
	}
	if c.UserID != s.UserID {
		return client.Connection{}, &client.Problem{Kind: client.NotFound, Status: http.StatusNotFound}
	}
	return c, nil
}

// value returns what an optional field holds; the zero value without one.
func value[T any](field *T) T {
	if field == nil {
		var none T
		return none
	}
	return *field
}
