// Package httpapi is the service's face: the partner REST API v1, the pages that
// a user's browser meets on the way to Prisma and back, and the one place that
// turns errors into answers.
//
// What the API is stands in api/openapi.yaml, and everything before a handler comes
// from there: the route, the scope that a key needs, the query, headers and the body
// (operations.go). A handler parses what the contract can't say, makes one call, and
// renders. Handlers return errors as they are; handleError logs and sends them. In
// tests package apitest holds every answer against the contract.
//
// To add an operation:
//
//  1. Write it into api/openapi.yaml, with examples and x-problems, or take it off the
//     list exclude-operation-ids in contract/generate.yaml; make generate.
//  2. Implement the method that handlers lacks now, as the others do; what it calls is
//     added to Config or to the interface that is there.
//  3. Test it through package apitest. A route is found by the tests over all routes by
//     itself: they may need a body or an id for it.
package httpapi
