// The quickstart command connects a user's Prisma workspace and creates a database in it:
// what docs/partners.md tells step by step, as one program. It wants CONNECT_URL, API_KEY
// and RETURN_URL in its environment, a browser, and the address that the browser came back
// to on standard input.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"

	"github.com/connect-prisma/server/client"
)

func main() {
	if err := run(context.Background()); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	connect, err := client.New(os.Getenv("CONNECT_URL"), os.Getenv("API_KEY"), client.Options{})
	if err != nil {
		return err
	}

	session, err := connect.CreateConnectSession(ctx, client.CreateConnectSessionRequest{
		UserID:    "user-42",
		UserLabel: new("grace@example.com"),
		ReturnURL: new(os.Getenv("RETURN_URL")),
	})
	if err != nil {
		return err
	}
	fmt.Println("Open", *session.URL) // in your app: http.Redirect(w, r, *session.URL, http.StatusSeeOther)

	var address string
	if _, err := fmt.Scanln(&address); err != nil { // in your app: r.URL, in the handler of your return URL
		return err
	}
	back, err := url.Parse(address)
	if err != nil {
		return err
	}
	if back.Query().Get("sessionId") != session.ID {
		return errors.New("this user began no such session")
	}
	connection, err := connect.CompleteConnectSession(ctx, session.ID, client.CompleteConnectSessionRequest{
		CompletionCode: back.Query().Get("completionCode"),
		UserID:         "user-42",
	})
	if err != nil {
		return err
	}
	fmt.Println(connection.ID, connection.Workspace.Name, connection.Status)

	database, err := connect.CreateDatabase(ctx, connection.ID,
		client.CreateDatabaseRequest{Name: "shop", Region: new("eu-central-1")},
		client.WithIdempotencyKey("order-1001"))
	if err != nil {
		return err
	}
	fmt.Println(database.ID, database.Name, database.Credentials != nil) // Credentials.ConnectionString opens it

	for database, err := range connect.AllDatabases(ctx, connection.ID, client.ListDatabasesParams{}) {
		if err != nil {
			return err
		}
		fmt.Println(database.ID, database.Name)
	}

	_, err = connect.GetConnection(ctx, "cnx_unknown")
	if problem, ok := errors.AsType[*client.Problem](err); ok && problem.Kind == client.NotFound {
		fmt.Println(problem.Detail, problem.RequestID)
	} else if err != nil {
		return err // another *client.Problem, or a *client.UnreachableError: no answer came
	}
	return nil
}
