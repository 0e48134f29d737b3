package prismasimtest

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/connect-prisma/server/internal/prismasim/apidoc"
)

// Validated returns next with every /v1 answer held against the interface
// document; what does not fit fails the test. A status that the document does
// not declare for the operation must have the common error body.
func Validated(tb testing.TB, next http.Handler) http.Handler {
	tb.Helper()
	doc, err := apidoc.Load()
	if err != nil {
		tb.Fatalf("load the interface document: %v", err)
	}
	router, err := gorillamux.NewRouter(&openapi3.T{OpenAPI: doc.OpenAPI, Info: doc.Info, Paths: doc.Paths}) // on any host
	if err != nil {
		tb.Fatalf("route the interface document: %v", err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/v1/") {
			next.ServeHTTP(w, r)
			return
		}
		seen := &tee{ResponseWriter: w}
		next.ServeHTTP(seen, r)
		if seen.status == 0 { // cut
			return
		}
		if err := check(doc, router, r, seen); err != nil {
			tb.Errorf("%s %s answered %d against the interface document: %v", r.Method, r.URL.Path, seen.status, err)
		}
	})
}

// check validates one answer.
func check(doc *openapi3.T, router routers.Router, r *http.Request, seen *tee) error {
	asked := r.Clone(r.Context())
	if segments := strings.Split(asked.URL.Path, "/"); len(segments) == 5 && segments[2] == "workspaces" && segments[4] == "projects" {
		asked.URL.Path = "/v1/projects" // the older path of the same operation
	}
	route, params, err := router.FindRoute(asked)
	if err != nil || route.Operation.Responses.Status(seen.status) == nil {
		return isError(doc, seen)
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: asked, PathParams: params, Route: route},
		Status:                 seen.status, Header: seen.Header(),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	input.SetBodyBytes(seen.body.Bytes())
	return openapi3filter.ValidateResponse(r.Context(), input)
}

// isError validates the common error body.
func isError(doc *openapi3.T, seen *tee) error {
	value, err := openapi3filter.JSONBodyDecoder(bytes.NewReader(seen.body.Bytes()), seen.Header(), nil, nil)
	if err != nil {
		return err //nolint:wrapcheck // its caller says whose answer it was
	}
	return doc.Components.Schemas["ErrorResponse"].Value.VisitJSON(value)
}

// tee keeps a copy of an answer.
type tee struct {
	http.ResponseWriter

	status int
	body   bytes.Buffer
}

// Unwrap lets http.ResponseController reach the connection.
func (t *tee) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// WriteHeader notes the status.
func (t *tee) WriteHeader(status int) {
	t.status = status
	t.ResponseWriter.WriteHeader(status)
}

// Write notes the body.
func (t *tee) Write(b []byte) (int, error) {
	if t.status == 0 {
		t.status = http.StatusOK
	}
	t.body.Write(b)
	return t.ResponseWriter.Write(b) //nolint:wrapcheck // an http.ResponseWriter passes its error on
}
