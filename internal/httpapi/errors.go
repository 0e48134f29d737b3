package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/web"
)

// problem is an RFC 9457 answer. Extra members stand beside the others.
type problem struct {
	Type      string         `json:"type"`
	Title     string         `json:"title"`
	Status    int            `json:"status"`
	Detail    string         `json:"detail,omitempty"`
	RequestID string         `json:"requestId"`
	Errors    []problemField `json:"errors,omitempty"`
	Extra     map[string]any `json:"-"`
}

type problemField struct {
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

// status maps a kind to its HTTP status. The exhaustive linter fails the build
// when a kind is added to package fault and not here.
func status(k fault.Kind) int {
	switch k {
	case fault.InvalidRequest:
		return http.StatusBadRequest
	case fault.InvalidValue, fault.IdempotencyConflict:
		return http.StatusUnprocessableEntity
	case fault.Unauthorized:
		return http.StatusUnauthorized
	case fault.ForbiddenScope, fault.OperationNotAllowed:
		return http.StatusForbidden
	case fault.NotFound:
		return http.StatusNotFound
	case fault.MethodNotAllowed:
		return http.StatusMethodNotAllowed
	case fault.Conflict, fault.RestartConnect, fault.CompletionInProgress, fault.WorkspaceChanged,
		fault.ReconnectRequired, fault.OperationInProgress, fault.DefaultDatabase:
		return http.StatusConflict
	case fault.Expired:
		return http.StatusGone
	case fault.QuotaExceeded:
		return http.StatusTooManyRequests
	case fault.PrismaRefused:
		return http.StatusBadGateway
	case fault.RefreshInProgress, fault.PrismaUnavailable:
		return http.StatusServiceUnavailable
	case fault.Internal:
	}
	return http.StatusInternalServerError
}

// newProblem turns any error into a problem that is safe to send: only a
// *fault.Error's Detail leaves the service, never the text of another error.
func (s *Server) newProblem(err error, requestID string) problem {
	p := problem{RequestID: requestID}
	kind := fault.KindOf(err)
	if e, ok := errors.AsType[*fault.Error](err); ok && e.Kind != fault.Internal {
		p.Status, p.Detail, p.Extra = status(e.Kind), e.Detail, e.Extra
		for _, f := range e.Fields {
			p.Errors = append(p.Errors, problemField(f))
		}
	} else if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		kind, p.Status = fault.InvalidRequest, http.StatusRequestEntityTooLarge
		p.Detail = fmt.Sprintf("The body is too large; %d KiB are allowed.", e.Limit>>10)
	} else if e, ok := errors.AsType[*echo.HTTPError](err); ok { // the router's own, and the body limit's
		kind, p.Status, p.Detail = ofHTTPError(e)
	} else if errors.Is(err, context.Canceled) { // the client left, or half of it
		p.Status, p.Detail = http.StatusServiceUnavailable, "The request was cut short before its answer."
	} else if postgres.IsUnavailable(err) {
		p.Status, p.Detail = http.StatusServiceUnavailable, "The service can't reach its database; try again soon."
	} else {
		p.Status, p.Detail = http.StatusInternalServerError, "Something went wrong on our side; the request id helps us find it."
	}
	p.Title = explain(kind).Title
	p.Type = s.cfg.PublicURL + "/problems/" + kindName(kind)
	return p
}

func kindName(k fault.Kind) string {
	if k == fault.Internal {
		return "internal"
	}
	return string(k)
}

func ofHTTPError(e *echo.HTTPError) (fault.Kind, int, string) {
	switch e.Code {
	case http.StatusNotFound:
		return fault.NotFound, e.Code, "There is nothing at this address."
	case http.StatusMethodNotAllowed:
		return fault.MethodNotAllowed, e.Code, "This address does not take that method; the Allow header names those it takes."
	case http.StatusRequestEntityTooLarge:
		return fault.InvalidRequest, e.Code, "The body is too large; 64 KiB are allowed."
	case http.StatusUnsupportedMediaType:
		return fault.InvalidRequest, e.Code, "Send JSON, with Content-Type: application/json and without Content-Encoding."
	}
	if e.Code >= 400 && e.Code < 500 {
		return fault.InvalidRequest, http.StatusBadRequest, "The request can't be understood."
	}
	return fault.Internal, http.StatusInternalServerError, "Something went wrong on our side; the request id helps us find it."
}

// MarshalJSON puts the extra members beside the standard ones.
func (p problem) MarshalJSON() ([]byte, error) {
	type plain problem
	if len(p.Extra) == 0 {
		return json.Marshal(plain(p))
	}
	text, err := json.Marshal(plain(p))
	if err != nil {
		return nil, err
	}
	all := maps.Clone(p.Extra)
	if err := json.Unmarshal(text, &all); err != nil { // the standard members win
		return nil, err
	}
	return json.Marshal(all)
}

// handleError is the server's only echo.HTTPErrorHandler: it sends an error, as a
// page to browsers and as a problem to everybody else. The request's record has
// it in the log.
func (s *Server) handleError(err error, c echo.Context) {
	ctx := c.Request().Context()
	p := s.newProblem(err, requestID(c))
	if isPassThrough(c) {
		p.Extra = withPrismaError(p)
	}
	if c.Response().Committed {
		return // half an answer is out: nothing can be mended
	}
	header := c.Response().Header()
	if advice := retryAfter(err, p.Status); advice != "" {
		header.Set(echo.HeaderRetryAfter, advice)
	}
	if p.Status == http.StatusUnauthorized {
		header.Set(echo.HeaderWWWAuthenticate, `Bearer realm="Connect Prisma"`)
	}
	if err := s.sendError(c, p); err != nil {
		s.cfg.Logger.ErrorContext(ctx, "error not sent", slog.String("request_id", p.RequestID), slog.String("error", err.Error()))
	}
}

// retryAfter is when to send the request again, in seconds; "": no advice. A 503 has one
// by default, unless it says that a second request could do harm.
func retryAfter(err error, status int) string {
	e, ok := errors.AsType[*fault.Error](err)
	switch {
	case ok && e.NoRetry:
		return ""
	case ok && e.RetryAfter > 0:
		return strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds())))
	case status == http.StatusServiceUnavailable:
		return "1"
	}
	return ""
}

func (s *Server) sendError(c echo.Context, p problem) error {
	if c.Request().Method == http.MethodHead {
		return c.NoContent(p.Status)
	}
	if wantsPage(c.Request()) {
		return s.page(c, p.Status, errorPage(p))
	}
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	noStore(c)
	return c.Blob(p.Status, "application/problem+json", body)
}

// wantsPage reports whether a person looks at the answer: the browser routes,
// and unknown addresses that a browser asks for.
func wantsPage(r *http.Request) bool {
	for _, prefix := range []string{"/connect/", "/oauth/", "/admin", "/claim/", "/problems"} {
		if strings.HasPrefix(r.URL.Path, prefix) {
			return true
		}
	}
	return !strings.HasPrefix(r.URL.Path, "/v1/") && strings.Contains(r.Header.Get("Accept"), "text/html")
}

func errorPage(p problem) web.MessagePage {
	page := web.MessagePage{
		Title: p.Title, Heading: p.Title, Status: p.Status, RequestID: p.RequestID,
		Paragraphs: []string{p.Detail},
	}
	switch p.Status {
	case http.StatusNotFound:
		page.Heading = "There is nothing here"
		page.Paragraphs = []string{"The address may be mistyped, or what was here is gone."}
	case http.StatusInternalServerError, http.StatusServiceUnavailable:
		page.Heading = "That didn’t work"
		page.Paragraphs = []string{"Something went wrong on our side, not on yours. Please try again in a moment."}
	}
	return page
}
