package httpapi

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/web"
)

// explanation is what a problem type means and what its receiver does about it.
type explanation struct{ Title, Meaning, WhatToDo string }

// explain documents every kind. The exhaustive linter fails the build when one is
// missing.
func explain(k fault.Kind) explanation {
	switch k {
	case fault.InvalidRequest:
		return explanation{
			"Invalid request", "The request can't be parsed, or it does not have the documented form: a field is missing, unknown, given twice or of the wrong type.",
			"Look at errors: each pointer names the place and says what to send. Sending the same request again gives the same answer.",
		}
	case fault.InvalidValue:
		return explanation{
			"Invalid value", "The request has the documented form, but a value in it is refused: an unregistered URL, an unknown region, a name that is too long.",
			"Look at errors, change the values that are named there, and send the request again.",
		}
	case fault.Unauthorized:
		return explanation{
			"Unauthorized", "The request carries no API key, or one that is unknown, revoked or expired. These are not told apart.",
			"Send the key as a bearer token. If it worked before, ask whoever runs this service for a new one.",
		}
	case fault.ForbiddenScope:
		return explanation{"Scope missing", "The API key is valid, but lacks the scope that this call needs.", "Use a key with the scope named in detail."}
	case fault.NotFound:
		return explanation{
			"Not found", "What the address names does not exist, or not any more, or belongs to somebody else. These are not told apart.",
			"Check the id. Deleted connections are not found either.",
		}
	case fault.MethodNotAllowed:
		return explanation{"Method not allowed", "The address exists, but not for this method.", "Use one of the methods in the Allow header."}
	case fault.Conflict:
		return explanation{
			"Conflict", "The state of what you address forbids the call: for example, a session is completed before its user came back.",
			"Read the resource again, then decide.",
		}
	case fault.RestartConnect:
		return explanation{
			"Start the connection again", "The connect session ended without a connection: the user said no, Prisma refused the code, or its answer was lost. A code is never sent twice.",
			"Create a new connect session and send the user to its URL.",
		}
	case fault.CompletionInProgress:
		return explanation{"Completion in progress", "The same completion is still running.", "Send the same request again after Retry-After."}
	case fault.WorkspaceChanged:
		return explanation{
			"Another workspace was chosen", "The session was to renew a connection, and the user chose another workspace on Prisma's page. Nothing was changed; the other grant was dropped.",
			"Show the user expected and chosen, and send them to url to choose again. To connect the other workspace too, create a session without connectionId.",
		}
	case fault.Expired:
		return explanation{"Too late", "What you redeem has expired: a completion code lives 45 seconds, a connect session ten minutes.", "Create a new connect session."}
	case fault.ReconnectRequired:
		return explanation{
			"Reconnect required", "Prisma no longer accepts the connection's tokens. Only its user can renew it.",
			"Create a connect session with this connectionId and send the user to its URL; the connection keeps its id.",
		}
	case fault.RefreshInProgress:
		return explanation{"Refresh in progress", "The connection's access token is being renewed and that takes longer than callers wait. The refresh goes on.", "Send the request again after Retry-After."}
	case fault.IdempotencyConflict:
		return explanation{"Idempotency key used otherwise", "The Idempotency-Key was used before with another request.", "Use a new key for a new request, the same key only to repeat the same one."}
	case fault.OperationInProgress:
		return explanation{"Operation in progress", "A request with the same Idempotency-Key is still running.", "Send the same request again after Retry-After."}
	case fault.OperationNotAllowed:
		return explanation{"Operation not allowed", "This is not done through this service, or not from there.", "Read detail; there is no key or scope that allows it."}
	case fault.DefaultDatabase:
		return explanation{
			"Default database", "The database is its project's default one, and Prisma deletes that only together with the project.",
			"Delete the project that projectId names, if nothing else in it is needed.",
		}
	case fault.QuotaExceeded:
		return explanation{"Too many requests", "A limit is reached: of this service for your tenant, or of Prisma.", "Wait for Retry-After, then send the request again."}
	case fault.PrismaRefused:
		return explanation{
			"Prisma refused the token", "Prisma refused an access token that should still be valid, and renewing it is not the answer.",
			"Try again in a minute. If it stays, the user may have removed the integration: let them reconnect.",
		}
	case fault.PrismaUnavailable:
		return explanation{
			"Prisma is not available", "Prisma could not be reached or failed. Nothing is wrong with the connection.",
			"Send the request again after Retry-After, a creating call with the same Idempotency-Key, so that nothing is made twice. " +
				"An answer without Retry-After means that a call without such a key may have been done: look before you send it again.",
		}
	case fault.Internal:
	}
	return explanation{"Internal error", "Something went wrong on our side.", "Send the request again later. Tell whoever runs this service the requestId."}
}

// further has the statuses that a kind is sent with besides its own, and what to do then.
func further(k fault.Kind) []web.ProblemStatus {
	switch {
	case k == fault.InvalidRequest:
		return []web.ProblemStatus{
			{Status: http.StatusRequestEntityTooLarge, Meaning: "The body is too large: 64 KiB are allowed, through the pass-through 10 MiB. Send less at once."},
			{Status: http.StatusUnsupportedMediaType, Meaning: "The body is not sent as JSON, or it is compressed. Use Content-Type: application/json and no Content-Encoding."},
		}
	case kindName(k) == kindName(fault.Internal):
		return []web.ProblemStatus{{
			Status: http.StatusServiceUnavailable,
			Meaning: "The service can't do it just now; most often its database is away. Send the request again after Retry-After, " +
				"a creating call with the same Idempotency-Key.",
		}}
	}
	return nil
}

func problemPage(k fault.Kind) web.ProblemPage {
	e := explain(k)
	return web.ProblemPage{
		Kind: kindName(k), Title: e.Title, Status: status(k), Meaning: e.Meaning, WhatToDo: e.WhatToDo, Further: further(k),
	}
}

// listProblems serves GET /problems.
func (s *Server) listProblems(c echo.Context) error {
	var index web.ProblemIndexPage
	for _, k := range append(fault.Kinds(), fault.Internal) {
		index.Problems = append(index.Problems, problemPage(k))
	}
	return s.page(c, http.StatusOK, index)
}

// showProblem serves GET /problems/:kind, where the type of every problem leads.
func (s *Server) showProblem(c echo.Context) error {
	for _, k := range append(fault.Kinds(), fault.Internal) {
		if kindName(k) == c.Param("kind") {
			return s.page(c, http.StatusOK, problemPage(k))
		}
	}
	return echo.ErrNotFound
}
