package managementapi

import _ "embed" // the document is part of the binary

//go:embed prisma-management-api.json
var document []byte

// Document returns the interface document: OpenAPI 3.1, JSON in UTF-8, version 1.80.0 of
// the interface. Every call returns the same bytes: do not change them.
//
// Source: the type declarations of @prisma/management-api-sdk 1.80.0.
func Document() []byte { return document }
