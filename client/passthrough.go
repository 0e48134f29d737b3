package client

import (
	"context"
	"net/http"
	"net/url"
	"strings"
)

// PassThroughRequest is a call of Prisma's Management API.
type PassThroughRequest struct {
	// Method is an HTTP method that the Management API documents for the path.
	Method string

	// Path is a documented path behind /v1/, such as "projects" or "databases/db_1/usage".
	Path string

	// Query is passed on as it is, empty values too.
	Query url.Values

	// Body is encoded as JSON; nil sends none.
	Body any
}

// PassThroughAnswer is what Prisma answered, whatever its status.
type PassThroughAnswer struct {
	Status int
	Header http.Header
	Body   []byte
}

// PassThrough calls Prisma's Management API with the user's access and returns what Prisma
// answers, failures too: look at Status. What this service refuses by itself, or can't get
// an answer to, is a *Problem. Only a GET is ever repeated.
//
// It reads answers of up to 10 MiB, whole. For larger ones, and for logs, which go on for as
// long as an hour, send the request with net/http and the API key as its bearer token.
//
//	GET|POST|PUT|PATCH|DELETE /v1/connections/{connectionId}/prisma/v1/{path}
func (c *Client) PassThrough(
	ctx context.Context, connectionID ConnectionID, request PassThroughRequest, options ...CallOption,
) (PassThroughAnswer, error) {
	segments := strings.Split(request.Path, "/")
	call := call{
		method: request.Method,
		path:   "/v1/connections/{connectionId}/prisma/v1" + strings.Repeat("/{segment}", len(segments)),
		ids:    append([]string{connectionID}, segments...),
		body:   request.Body,
		raw:    true,
	}
	for name, values := range request.Query {
		for _, value := range values {
			call.query = append(call.query, param{name: name, value: value})
		}
	}
	got, err := c.do(ctx, call, options)
	return PassThroughAnswer{Status: got.status, Header: got.header, Body: got.body}, err
}
