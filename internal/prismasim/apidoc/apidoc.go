// Package apidoc holds the interface document of the Management API in the form
// in which requests and answers are validated.
package apidoc

import (
	"fmt"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// load parses the document once in a process: it takes 50 ms, and half a second
// under the race detector, which every simulator of every test would pay again.
//
//nolint:gochecknoglobals // the parsed form of embedded, constant bytes; never changed
var load = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(managementapi.Document())
	if err != nil {
		return nil, fmt.Errorf("load the interface document: %w", err)
	}
	return doc, nil
})

// Load returns the parsed document. Every call returns the same one, for any
// number of goroutines to read: do not change it.
func Load() (*openapi3.T, error) { return load() }
