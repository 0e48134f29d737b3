// Package contract holds the server side of api/openapi.yaml: its types, and
// StrictServerInterface with a method for each operation. Package httpapi implements it.
package contract

// overlay.yaml leaves out what handlers have nothing to do with: errors, which they
// return and one place renders, and the headers that middleware reads and sets.
//
//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config generate.yaml ../../../api/openapi.yaml
