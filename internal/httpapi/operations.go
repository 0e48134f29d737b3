package httpapi

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/api"
	"github.com/connect-prisma/server/internal/tenants"
)

// operation is what the contract says of one operation, in the form in which requests
// are held against it.
type operation struct {
	id     string // the contract's operationId
	method string
	path   string // as echo writes it

	scope    tenants.Scope // what the key needs; "": any valid key will do
	query    []*openapi3.Parameter
	anyQuery bool // the query is passed on and is not ours to check

	takesKey    bool             // Idempotency-Key
	body        *openapi3.Schema // of a JSON body; nil: none is taken, or anyBody
	anyBody     bool             // the body is passed on and is not ours to read
	conditional bool             // its answer has an ETag
}

// loadOperations reads the contract. An error is a contract that can't be enforced.
func loadOperations() (map[string]operation, error) {
	doc, err := api.Load()
	if err != nil {
		return nil, err
	}
	all := make(map[string]operation)
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			one := operation{id: op.OperationID, method: method, path: path}
			if one.scope, err = scopeOf(op); err != nil {
				return nil, err
			}
			for _, ref := range slices.Concat(item.Parameters, op.Parameters) {
				one = one.with(ref.Value)
			}
			one.path = strings.NewReplacer("{", ":", "}", "").Replace(one.path)
			if op.RequestBody != nil {
				media := op.RequestBody.Value.Content[echo.MIMEApplicationJSON]
				if one.anyBody = media == nil; media != nil {
					one.body = media.Schema.Value
				}
			}
			one.conditional = op.Responses.Value("304") != nil
			all[one.id] = one
		}
	}
	for _, id := range slices.Concat(passedThrough(), slices.Collect(maps.Keys(countedApart()))) {
		if all[id].id == "" {
			return nil, fmt.Errorf("the contract has no operation %s, which is named in the code", id)
		}
	}
	return all, nil
}

// scopeOf reads the one scope that an operation names, "" when it names none.
func scopeOf(op *openapi3.Operation) (tenants.Scope, error) {
	if op.Security == nil || len(*op.Security) != 1 {
		return "", fmt.Errorf("the contract's operation %s does not say who may call it", op.OperationID)
	}
	scopes, ok := (*op.Security)[0]["apiKey"]
	scope := tenants.Scope(strings.Join(scopes, " "))
	if !ok || scope != "" && !slices.Contains(tenants.AllScopes(), scope) {
		return "", fmt.Errorf("the contract's operation %s has an unknown scope", op.OperationID)
	}
	return scope, nil
}

// with adds a parameter. What is in the path is for whoever looks it up to refuse: a
// malformed id is as absent as any other.
func (o operation) with(p *openapi3.Parameter) operation {
	switch p.In {
	case openapi3.ParameterInPath:
		if p.Extensions["x-several-segments"] == true {
			o.path = strings.Replace(o.path, "{"+p.Name+"}", "*", 1)
		}
	case openapi3.ParameterInQuery:
		if o.anyQuery = p.Schema.Value.Type.Is(openapi3.TypeObject); !o.anyQuery {
			o.query = append(o.query, p)
		}
	case openapi3.ParameterInHeader:
		o.takesKey = o.takesKey || p.Name == idempotencyHeader
	}
	return o
}

// guard is what stands before the handler of an operation, in this order: who asks and
// whether they may, then what they ask for. It is middleware of each route and not of
// a group: with that, echo answers wrong methods with 404.
func (s *Server) guard(o operation) []echo.MiddlewareFunc {
	chain := []echo.MiddlewareFunc{
		// Limits: it is known who asks, and nothing was done for them.
		s.authenticate, s.limit(o), permit(o.scope),
		o.checkQuery, o.checkHeaders, o.checkBody, s.authenticateLate(o.scope),
	}
	if o.conditional {
		chain = append(chain, conditional)
	}
	return chain
}

// guards has the middleware of each operation.
func (s *Server) guards() map[string][]echo.MiddlewareFunc {
	all := make(map[string][]echo.MiddlewareFunc, len(s.operations))
	for id, one := range s.operations {
		all[id] = s.guard(one)
	}
	return all
}

// checkHeaders reads the Idempotency-Key where one is taken, and leaves it bare for the
// handler.
func (o operation) checkHeaders(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if o.takesKey {
			key, err := idempotencyKey(c.Request().Header)
			if err != nil {
				return err
			}
			if key != "" {
				c.Request().Header.Set(idempotencyHeader, key)
			}
		}
		return next(c)
	}
}

const idempotencyHeader = "Idempotency-Key"

// checkBody holds a body against the contract, and leaves it for the handler to decode.
func (o operation) checkBody(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		var err error
		switch {
		case o.body != nil:
			err = readBody(c.Request(), o.body)
		case !o.anyBody && o.method != http.MethodGet:
			err = noBody(c.Request())
		}
		if err != nil {
			return err
		}
		return next(c)
	}
}
