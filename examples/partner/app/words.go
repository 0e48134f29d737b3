package app

import (
	"cmp"
	"errors"
	"net/http"
	"strings"

	"github.com/connect-prisma/server/client"
)

// explain turns an error into words for the user, and the status of the page. The
// server's detail is written for people and is shown as it is, except where the
// failure is this app's own: a user can do nothing about a wrong API key.
func explain(err error) (messagePage, int) {
	problem, ok := errors.AsType[*client.Problem](err)
	if !ok {
		if _, ok := errors.AsType[*client.UnreachableError](err); ok {
			return messagePage{
				Title: "Connect Prisma did not answer",
				Paragraphs: []string{
					"We could not reach the service that works with Prisma for us, or its answer was lost. Try again in a moment.",
				},
			}, http.StatusBadGateway
		}
		return messagePage{
			Title:      "Something went wrong here",
			Paragraphs: []string{"It is our fault, and it has been noted. Try again later."},
		}, http.StatusInternalServerError
	}
	page := messagePage{Title: title(problem), RequestID: problem.RequestID}
	for _, field := range problem.Errors {
		page.Fields = append(page.Fields, strings.TrimPrefix(field.Pointer, "/")+": "+field.Detail)
	}
	kind := problem.Kind
	if kind == client.Unauthorized || kind == client.ForbiddenScope {
		page.Fields = nil
		page.Paragraphs = []string{"The service that works with Prisma for us does not accept this app's key. It has been noted."}
		return page, http.StatusBadGateway
	}
	if kind == client.NotFound {
		return notFoundPage(), http.StatusNotFound
	}
	page.Reconnect = kind == client.ReconnectRequired
	page.Paragraphs = sentences(problem.Detail, advice(kind))
	return page, cmp.Or(problem.Status, http.StatusBadGateway)
}

// title heads the page of a problem.
func title(problem *client.Problem) string {
	switch problem.Kind {
	case client.Unauthorized, client.ForbiddenScope:
		return "This app is not set up right"
	case client.InvalidRequest, client.InvalidValue:
		return "That was not accepted"
	case client.Expired:
		return "That took too long"
	case client.RestartConnect, client.Conflict:
		return "That did not work out"
	case client.CompletionInProgress:
		return "Still connecting"
	case client.WorkspaceChanged:
		return "Another workspace was chosen"
	case client.ReconnectRequired:
		return "Prisma needs you to reconnect"
	case client.RefreshInProgress, client.OperationInProgress:
		return "Still working on it"
	case client.DefaultDatabase:
		return "This is its project's default database"
	case client.QuotaExceeded:
		return "A limit is reached"
	case client.PrismaUnavailable:
		return "Prisma does not answer at the moment"
	case client.NotFound, client.MethodNotAllowed, client.IdempotencyConflict, client.OperationNotAllowed,
		client.PrismaRefused, client.Internal:
	}
	return "The request failed"
}

// advice says what to do, where the server's detail need not.
func advice(kind client.Kind) string {
	switch kind {
	case client.Expired, client.RestartConnect, client.Conflict:
		return "Nothing was connected. Press Connect Prisma to start afresh."
	case client.CompletionInProgress:
		return "This page asks again by itself."
	case client.WorkspaceChanged:
		return "Nothing was changed. Press Reconnect to choose again."
	case client.RefreshInProgress, client.OperationInProgress:
		return "Try again in a moment."
	case client.DefaultDatabase:
		return "A project always keeps its default database: it goes only together with the project, in Prisma's console."
	case client.PrismaUnavailable:
		return "Nothing is lost. Try again in a few minutes."
	case client.Unauthorized, client.ForbiddenScope, client.InvalidRequest, client.InvalidValue,
		client.NotFound, client.ReconnectRequired, client.QuotaExceeded, client.MethodNotAllowed,
		client.IdempotencyConflict, client.OperationNotAllowed, client.PrismaRefused, client.Internal:
	}
	return ""
}

// sentences returns the texts that are not empty, as paragraphs.
func sentences(texts ...string) []string {
	var out []string
	for _, text := range texts {
		if text != "" {
			out = append(out, text)
		}
	}
	return out
}

// returnedPage says how a connect session ended at Prisma without a connection.
func returnedPage(reason string) messagePage {
	switch reason {
	case "access_denied":
		return messagePage{
			Title:      "You did not give access",
			Paragraphs: []string{"You said no at Prisma, so nothing was connected. You can change your mind any time."},
			Reconnect:  true,
		}
	case "expired":
		return messagePage{
			Title:      "That took too long",
			Paragraphs: []string{"The link to Prisma works for ten minutes. Nothing was connected; start again."},
			Reconnect:  true,
		}
	}
	// The word is not shown: anybody can write anything into a query.
	return messagePage{
		Title:      "Prisma could not connect you",
		Paragraphs: []string{"Something went wrong on the way. Nothing was connected; start again."},
		Reconnect:  true,
	}
}

// notYoursPage refuses to finish a connect session that this browser did not begin
// for the user who is signed in.
func notYoursPage(s session) messagePage {
	page := messagePage{
		Account: s.account(),
		Title:   "This connection was not started here",
		Paragraphs: []string{
			"You came back from Prisma for a connection that was begun in another browser, or by another user of this app. " +
				"It was not finished, and nothing was connected.",
			"If you started it yourself, perhaps before you signed in anew, just press Connect Prisma again. " +
				"If somebody sent you a link, do not use it: your workspace would have ended up in their account.",
		},
		Reconnect: s.UserID != "",
	}
	if s.UserID == "" {
		page.LinkLabel = "Sign in"
		page.Link = "/"
	}
	return page
}

func notFoundPage() messagePage {
	return messagePage{
		Title:      "Not found",
		Paragraphs: []string{"There is nothing here, or it is not yours."},
	}
}

func unreadablePage() messagePage {
	return messagePage{
		Title:      "That form could not be read",
		Paragraphs: []string{"It was too long or garbled. Go back and try again."},
	}
}
