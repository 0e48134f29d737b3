package contractfuzz_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/connect-prisma/server/api"
)

// operation is one operation of the contract.
type operation struct {
	id, method, path string

	params []*openapi3.Parameter
	body   *openapi3.Schema // nil: it takes none
	scope  string           // "": any key will do
}

// operations lists them in the order of their names, so that a seed means the same run.
func operations(t *testing.T) []operation {
	t.Helper()
	doc, err := api.Load()
	if err != nil {
		t.Fatal(err)
	}
	var all []operation
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			one := operation{id: op.OperationID, method: method, path: path}
			for _, p := range slices.Concat(item.Parameters, op.Parameters) {
				one.params = append(one.params, p.Value)
			}
			if op.RequestBody != nil {
				if media := op.RequestBody.Value.Content["application/json"]; media != nil {
					one.body = media.Schema.Value
				}
			}
			one.scope = strings.Join((*op.Security)[0]["apiKey"], " ")
			all = append(all, one)
		}
	}
	slices.SortFunc(all, func(a, b operation) int { return strings.Compare(a.id, b.id) })
	return all
}

// passesThrough: what is asked and answered is Prisma's.
func (o operation) passesThrough() bool { return strings.HasSuffix(o.path, "/{path}") }

// takes reports whether an operation has a parameter of that name.
func (o operation) takes(name string) bool {
	return slices.ContainsFunc(o.params, func(p *openapi3.Parameter) bool { return p.Name == name })
}
