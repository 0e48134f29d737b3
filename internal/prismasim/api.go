package prismasim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
)

// maxBodyBytes bounds the body of a /v1 request; more is answered 413.
const maxBodyBytes = 1 << 20

// call is one /v1 request that has been authenticated and validated.
type call struct {
	*http.Request

	actor  actor
	body   []byte // validated JSON, "{}" when the request had none
	now    time.Time
	faults Faults
	route  *routers.Route
}

// actor is who a bearer token stands for: a workspace, by way of a grant or of a
// service token.
type actor struct {
	workspaceID string
	grant       grant        // zero for a service token
	service     serviceToken // zero for a grant
}

// reply is a success: a status and, unless it is 204, a JSON body.
type reply struct {
	status int
	body   any
}

// operation answers one documented operation; an error that is no *apiError
// becomes a 500.
type operation func(c *call) (reply, error)

// apiError is an error answer in Prisma's form.
type apiError struct {
	status     int
	code       string
	message    string
	retryAfter int // seconds; 0: no header
}

// Error returns the code and message as sent.
func (e *apiError) Error() string { return e.code + ": " + e.message }

func notFound(what string) *apiError {
	return &apiError{status: http.StatusNotFound, code: "resource-not-found", message: what + " not found."}
}

func badRequest(message string) *apiError {
	return &apiError{status: http.StatusBadRequest, code: "client-error", message: message}
}

func forbidden(message string) *apiError {
	return &apiError{status: http.StatusForbidden, code: "permission-denied", message: message}
}

func conflict(message string) *apiError {
	return &apiError{status: http.StatusConflict, code: "conflict", message: message}
}

func unauthorized() *apiError {
	return &apiError{status: http.StatusUnauthorized, code: "authentication-failed", message: "The token is missing, expired or not valid."}
}

// invalid is a request that is readable and wrong: 422 where the interface
// document declares it for the operation, else 400.
func (c *call) invalid(message string) *apiError {
	if c.route.Operation.Responses.Status(http.StatusUnprocessableEntity) != nil {
		return &apiError{status: http.StatusUnprocessableEntity, code: "validation-error", message: message}
	}
	return badRequest(message)
}

// serve returns the handler of one operation of the interface document: faults,
// authentication, validation, the work, and then the faults that strike after it.
func (s *Simulator) serve(route *routers.Route, work operation) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.apiRequests.Add(1)
		faults := s.settings().Faults
		if fault := refuse(faults); fault != nil {
			s.answer(w, r, reply{}, fault)
			return
		}
		cutAfter, failAfter := chance(faults.APIDropAfter), chance(faults.APIFailAfter)
		faults.struck = cutAfter || failAfter
		result, err := s.perform(w, r, route, work, faults)
		s.pause(r, faults.APILatency)
		switch {
		case cutAfter:
			cut(w)
		case failAfter || errors.Is(err, errLandsLate):
			s.answer(w, r, reply{}, failure("The answer is lost (fault apiFailAfter or landLate)."))
		default:
			s.answer(w, r, result, err)
		}
	}
}

// refuse rolls the faults that strike before anything is done.
func refuse(faults Faults) error {
	if chance(faults.API429) {
		return &apiError{
			status: http.StatusTooManyRequests, code: "rate-limit-exceeded", message: "Too many requests (fault api429).", retryAfter: 1,
		}
	}
	if chance(faults.APIFailBefore) {
		return &apiError{status: http.StatusServiceUnavailable, code: "service-unavailable", message: "Refused unprocessed (fault apiFailBefore)."}
	}
	return nil
}

func failure(message string) *apiError {
	return &apiError{status: http.StatusInternalServerError, code: "internal-server-error", message: message}
}

// perform authenticates and validates the request and does its work, which goes
// on to its end when the client leaves.
func (s *Simulator) perform(
	w http.ResponseWriter, r *http.Request, route *routers.Route, work operation, faults Faults,
) (reply, error) {
	who, ok := s.authenticate(r.Header.Get("Authorization"))
	if !ok {
		return reply{}, unauthorized()
	}
	ctx := context.WithoutCancel(r.Context())
	c := &call{Request: r.WithContext(ctx), actor: who, now: s.clock.now(), faults: faults, route: route}
	if err := c.readBody(w); err != nil {
		return reply{}, err
	}
	if err := c.validate(ctx); err != nil {
		return reply{}, err
	}
	return work(c)
}

// authenticate finds who an Authorization header stands for.
func (s *Simulator) authenticate(header string) (who actor, ok bool) {
	scheme, token, found := strings.Cut(header, " ")
	if !found || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return actor{}, false
	}
	hash := hashSecret(token)
	s.read(func(st *state) {
		if id, known := st.serviceTokenByHash[hash]; known {
			row := st.serviceTokens.rows[id]
			who, ok = actor{workspaceID: row.WorkspaceID, service: row}, true
			return
		}
		who, ok = s.grantOf(st, hash)
	})
	return who, ok
}

// grantOf finds the live grant of an access token, given by its hash.
func (s *Simulator) grantOf(st *state, hash string) (actor, bool) {
	row, ok := st.accessTokens.get(hash)
	if !ok || !s.clock.now().Before(row.ExpiresAt) {
		return actor{}, false
	}
	g, ok := st.grants.get(row.GrantID)
	if !ok || g.Revoked {
		return actor{}, false
	}
	return actor{workspaceID: g.WorkspaceID, grant: g}, true
}

// readBody reads the body of an operation that takes one; none reads as "{}", so
// that what is required is asked for in one place.
func (c *call) readBody(w http.ResponseWriter) error {
	if c.route.Operation.RequestBody == nil {
		return nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, c.Body, maxBodyBytes))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &apiError{
			status: http.StatusRequestEntityTooLarge, code: "payload-too-large",
			message: fmt.Sprintf("The body must not be larger than %d bytes.", tooLarge.Limit),
		}
	}
	if err != nil {
		return badRequest("The body cannot be read.")
	}
	if len(bytes.TrimSpace(body)) == 0 {
		body = []byte("{}")
		c.Header.Set("Content-Type", "application/json")
	}
	c.body = body
	return nil
}

// validate holds the request against the interface document.
func (c *call) validate(ctx context.Context) error {
	needsQuery := slices.ContainsFunc(c.route.Operation.Parameters, func(p *openapi3.ParameterRef) bool {
		return p.Value.In == openapi3.ParameterInQuery && p.Value.Required
	})
	if c.body == nil && c.URL.RawQuery == "" && !needsQuery {
		return nil // path parameters are any text: nothing to hold against the document
	}
	if c.body != nil && !json.Valid(c.body) {
		return badRequest("The body is not JSON.")
	}
	names := map[string]string{}
	for segment := range strings.SplitSeq(c.route.Path, "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			name = strings.TrimSuffix(name, "}")
			names[name] = c.PathValue(name)
		}
	}
	request := c.Clone(ctx)
	request.Body = io.NopCloser(bytes.NewReader(c.body))
	request.ContentLength = int64(len(c.body))
	err := openapi3filter.ValidateRequest(ctx, &openapi3filter.RequestValidationInput{
		Request: request, PathParams: names, Route: c.route,
		Options: &openapi3filter.Options{
			SkipSettingDefaults: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc,
		},
	})
	if err == nil {
		return nil
	}
	return c.invalid(explain(err))
}

// explain says what a validator found, without repeating the value.
func explain(err error) string {
	where, reason := "The request", "does not fit the interface"
	if r, ok := errors.AsType[*openapi3filter.RequestError](err); ok {
		switch {
		case r.Parameter != nil:
			where = "The parameter " + r.Parameter.Name
		case r.RequestBody != nil:
			where = "The body"
		}
		if r.Reason != "" {
			reason = "is wrong"
		}
	}
	if schema, ok := errors.AsType[*openapi3.SchemaError](err); ok {
		if pointer := schema.JSONPointer(); len(pointer) > 0 {
			where = "The field /" + strings.Join(pointer, "/")
		}
		reason = "breaks the rule " + schema.SchemaField
	}
	return where + " " + reason + "."
}

// decode reads the validated body into v.
func (c *call) decode(v any) error {
	if err := json.Unmarshal(c.body, v); err != nil {
		return c.invalid("The body does not fit the interface.")
	}
	return nil
}

// answer writes a result or an error in Prisma's form.
func (s *Simulator) answer(w http.ResponseWriter, r *http.Request, result reply, err error) {
	if err != nil {
		fault, ok := errors.AsType[*apiError](err)
		if !ok {
			s.logger.ErrorContext(r.Context(), "prisma simulator: a request failed",
				slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Any("error", err))
			fault = failure("The simulator failed; its log says why.")
		}
		if fault.retryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(fault.retryAfter))
		}
		if fault.status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		detail := map[string]string{"code": fault.code, "message": fault.message}
		result = reply{status: fault.status, body: map[string]any{"error": detail}}
	}
	if result.body == nil {
		w.WriteHeader(result.status)
		return
	}
	s.writeJSON(w, r, result.status, result.body)
}

// writeJSON writes body whole, or a bare 500 when it cannot be encoded.
func (s *Simulator) writeJSON(w http.ResponseWriter, r *http.Request, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		s.logger.ErrorContext(r.Context(), "prisma simulator: an answer cannot be encoded", slog.Any("error", err))
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(text)))
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(text) // a client that left is its own affair
}
