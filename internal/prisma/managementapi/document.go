// Package managementapi holds the interface of Prisma's Management API as an
// OpenAPI 3.1 document: the paths, parameters, bodies and statuses that the
// client is written for and that the simulator must answer with.
package managementapi

import _ "embed" // the document is part of the binary

//go:embed prisma-management-api.json
var document []byte

// Document returns the OpenAPI 3.1 document, JSON in UTF-8, version 1.80.0 of
// the interface. Every call returns the same bytes: do not change them.
//
// Source: the type declarations of @prisma/management-api-sdk 1.80.0.
func Document() []byte { return document }
