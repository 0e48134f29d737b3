package app

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/connect-prisma/server/client"
)

// connection serves GET /connections/{connection}: the workspace's projects and
// databases, and the form that makes another.
func (a *app) connection(w http.ResponseWriter, r *http.Request, s session) error {
	page, err := a.connectionPage(r, s)
	if err != nil {
		return err
	}
	a.show(w, r, http.StatusOK, page)
	return nil
}

// connectionPage asks for all that the page shows, at once.
func (a *app) connectionPage(r *http.Request, s session) (connectionPage, error) {
	own, err := a.ownConnection(r, s, r.PathValue("connection"))
	if err != nil {
		return connectionPage{}, err
	}
	page := connectionPage{Account: s.account(), Connection: newConnectionView(own), Operation: rand.Text()}
	if !page.Connection.Usable {
		return page, nil // the page says why, and asking Prisma would only fail
	}
	var projects []client.Project
	var databases []client.Database
	group, ctx := errgroup.WithContext(r.Context())
	group.Go(fetch(&projects, func() ([]client.Project, error) {
		return client.Collect(a.connect.AllProjects(ctx, own.ID, client.ListProjectsParams{}))
	}))
	group.Go(fetch(&databases, func() ([]client.Database, error) {
		return client.Collect(a.connect.AllDatabases(ctx, own.ID, client.ListDatabasesParams{}))
	}))
	group.Go(fetch(&page.Regions, func() ([]client.Region, error) { return a.connect.ListRegions(ctx) }))
	if err := group.Wait(); err != nil {
		return connectionPage{}, err
	}
	page.Projects = newProjectViews(projects, databases)
	return page, nil
}

// fetch stores what get returns in to.
func fetch[T any](to *T, get func() (T, error)) func() error {
	return func() (err error) {
		*to, err = get()
		return err
	}
}

// createDatabase serves POST /connections/{connection}/databases {name, region,
// operation}. It answers with the page itself, not a redirect, because the
// connection string is told once and is to be kept nowhere here.
func (a *app) createDatabase(w http.ResponseWriter, r *http.Request, s session) error {
	own, err := a.ownConnection(r, s, r.PathValue("connection"))
	if err != nil {
		return err
	}
	wish := client.CreateDatabaseRequest{
		Name: strings.TrimSpace(r.PostFormValue("name")), Region: new(r.PostFormValue("region")),
	}
	operation := r.PostFormValue("operation")
	made, err := a.connect.CreateDatabase(r.Context(), own.ID, wish,
		client.WithIdempotencyKey(idempotencyKey(s, own.ID, operation)))
	if err != nil {
		return a.notCreated(w, r, s, wish, operation, err)
	}
	page := credentialsPage{
		Account: s.account(), Connection: newConnectionView(own), Database: made.Name, Region: value(made.Region), Created: true,
	}
	if made.Credentials != nil {
		page.ConnectionString = value(made.Credentials.ConnectionString)
	}
	a.show(w, r, http.StatusCreated, page)
	return nil
}

// notCreated shows the form again with what was typed. It keeps the operation
// where the outcome is unknown or the creation still runs, so that sending the form
// again asks for the same database; a refused wish gets a new one with the new page.
func (a *app) notCreated(
	w http.ResponseWriter, r *http.Request, s session, wish client.CreateDatabaseRequest, operation string, cause error,
) error {
	problem, ok := errors.AsType[*client.Problem](cause)
	refused := ok && problem.Status < http.StatusInternalServerError
	running := ok && problem.Kind == client.OperationInProgress
	if refused && !running && problem.Kind != client.InvalidValue && problem.Kind != client.InvalidRequest {
		return cause // nothing that another name or region would mend
	}
	if !refused {
		a.logFailure(r, cause)
	}
	page, err := a.connectionPage(r, s)
	if err != nil {
		return cause
	}
	page.Name, page.Region = wish.Name, value(wish.Region)
	if !refused || running {
		page.Operation, page.Again = operation, true
	}
	message, status := explain(cause)
	page.Problem = &message
	a.show(w, r, status, page)
	return nil
}

// createCredentials serves POST …/databases/{database}/credentials {operation}: a
// further connection string for a database whose first one was lost.
func (a *app) createCredentials(w http.ResponseWriter, r *http.Request, s session) error {
	own, err := a.ownConnection(r, s, r.PathValue("connection"))
	if err != nil {
		return err
	}
	database := r.PathValue("database")
	operation := r.PostFormValue("operation")
	key := idempotencyKey(s, own.ID, database, operation)
	made, err := a.connect.CreateCredentials(r.Context(), own.ID, database,
		client.CreateCredentialsRequest{Name: "sample-app-" + key[:8]}, client.WithIdempotencyKey(key))
	if err != nil {
		return err
	}
	a.show(w, r, http.StatusCreated, credentialsPage{
		Account: s.account(), Connection: newConnectionView(own), Database: r.PostFormValue("name"),
		ConnectionString: value(made.ConnectionString),
	})
	return nil
}

// deleteDatabase serves POST …/databases/{database}/delete.
func (a *app) deleteDatabase(w http.ResponseWriter, r *http.Request, s session) error {
	own, err := a.ownConnection(r, s, r.PathValue("connection"))
	if err != nil {
		return err
	}
	if err := a.connect.DeleteDatabase(r.Context(), own.ID, r.PathValue("database")); err != nil {
		return err
	}
	http.Redirect(w, r, "/connections/"+url.PathEscape(own.ID), http.StatusSeeOther)
	return nil
}

// idempotencyKey names one pressing of one button: the operation is a random word
// that came with the form, so a double click or a reload sends the same one. It is
// hashed with the user and the place, so that no user can name another's operation.
func idempotencyKey(s session, parts ...string) string {
	sum := sha256.Sum256([]byte(s.UserID + "\n" + strings.Join(parts, "\n")))
	return hex.EncodeToString(sum[:])
}
