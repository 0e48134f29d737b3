package apitest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/connect-prisma/server/api"
)

// document is the contract in the form in which answers are judged: what is open for
// further fields towards partners is closed here, so that no field goes undocumented.
//
//nolint:gochecknoglobals // the parsed form of embedded, constant bytes; never changed
var document = sync.OnceValues(func() (*openapi3.T, error) {
	text, err := api.JSON(PublicURL)
	if err != nil {
		return nil, err //nolint:wrapcheck // says it all
	}
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		return nil, fmt.Errorf("load the contract: %w", err)
	}
	for _, ref := range doc.Components.Schemas {
		closeSchema(ref)
	}
	return doc, nil
})

// closeSchema refuses fields that a schema does not name, all the way down. A schema
// beside a reference is a copy, so it has to be walked as well.
func closeSchema(ref *openapi3.SchemaRef) {
	if ref == nil || ref.Value == nil {
		return
	}
	s := ref.Value
	if len(s.Properties) > 0 && s.AdditionalProperties.Has == nil && s.AdditionalProperties.Schema == nil {
		no := false
		s.AdditionalProperties.Has = &no
	}
	for _, property := range s.Properties {
		closeSchema(property)
	}
	closeSchema(s.Items)
}

// operationOf finds the operation of a request, nil when the contract has none.
func operationOf(doc *openapi3.T, method, path string) *openapi3.Operation {
	parts := strings.Split(path, "/")
	for pattern, item := range doc.Paths.Map() {
		if op := item.GetOperation(method); op != nil && fits(strings.Split(pattern, "/"), parts) {
			return op
		}
	}
	return nil
}

// fits compares a path with a pattern, whose last part may stand for several.
func fits(pattern, parts []string) bool {
	for i, part := range pattern {
		if part == "{path}" && len(parts) > i {
			return true
		}
		if i >= len(parts) || part != parts[i] && (!strings.HasPrefix(part, "{") || parts[i] == "") {
			return false
		}
	}
	return len(pattern) == len(parts)
}

// badByContract lists what the contract does not say of an answer.
func (e exchange) badByContract() []string {
	doc, err := document()
	if err != nil {
		return []string{err.Error()}
	}
	if !slices.Contains([]string{
		http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
	}, e.method) {
		return nil
	}
	op := operationOf(doc, e.method, e.path)
	if op == nil {
		return nil // no route of ours: badProblem looks at it
	}
	response := op.Responses.Status(e.status)
	if response == nil {
		response = op.Responses.Default()
	}
	if response == nil {
		return []string{"a status that the contract does not have for it"}
	}
	return slices.Concat(e.undocumentedHeaders(response.Value), e.badBody(response.Value), e.badKind(op))
}

// undocumentedHeaders lists the headers that clients read and the contract does not have. ETag is
// not among them: through the pass-through it is Prisma's.
func (e exchange) undocumentedHeaders(response *openapi3.Response) []string {
	var bad []string
	for _, name := range []string{
		"X-Request-Id", "RateLimit", "RateLimit-Policy", "Retry-After", "Allow", "WWW-Authenticate", "Location",
		"Idempotent-Replayed", "Prisma-Request-Id",
	} {
		if e.header.Get(name) != "" && response.Headers[name] == nil {
			bad = append(bad, "a header that the contract does not have for it: "+name)
		}
	}
	return bad
}

// badBody holds the body against the schema of its type.
func (e exchange) badBody(response *openapi3.Response) []string {
	if len(response.Content) == 0 {
		if len(e.body) > 0 {
			return []string{"a body where the contract has none"}
		}
		return nil
	}
	media := response.Content[e.header.Get("Content-Type")] // we send no parameters with it
	if media == nil {
		if response.Content["*/*"] != nil {
			return nil // passed on as it is
		}
		return []string{fmt.Sprintf("a body of the type %q, which the contract does not have", e.header.Get("Content-Type"))}
	}
	if media.Schema == nil {
		return nil
	}
	var value any
	if err := json.Unmarshal(e.body, &value); err != nil {
		return []string{"a body that is no JSON"}
	}
	err := media.Schema.Value.VisitJSON(value, openapi3.VisitAsResponse(), openapi3.MultiErrors(), openapi3.EnableFormatValidation())
	if err != nil {
		return []string{"a body that breaks the contract: " + reasons(err)}
	}
	return nil
}

// reasons says what is wrong where, without the value, which may be a secret.
func reasons(err error) string {
	var all []string
	var many openapi3.MultiError
	switch e := err.(type) { //nolint:errorlint // the validator wraps neither
	case openapi3.MultiError:
		many = e
	case *openapi3.SchemaError:
		return "/" + strings.Join(e.JSONPointer(), "/") + " " + e.SchemaField + ": " + e.Reason
	default:
		return "it can't be held against it"
	}
	for _, one := range many {
		all = append(all, reasons(one))
	}
	return strings.Join(all, "; ")
}

// badKind demands that an operation names the kinds of problem that it answers.
func (e exchange) badKind(op *openapi3.Operation) []string {
	if e.header.Get("Content-Type") != "application/problem+json" {
		return nil
	}
	var p Problem
	listed, _ := op.Extensions["x-problems"].([]any)
	if err := json.Unmarshal(e.body, &p); err != nil || slices.Contains(listed, any(p.Kind())) {
		return nil // badBody complains of the first
	}
	return []string{"a problem that the contract does not list for it: " + strconv.Quote(p.Kind())}
}
