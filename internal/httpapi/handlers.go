package httpapi

import (
	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/httpapi/contract"
	"github.com/connect-prisma/server/internal/tenants"
)

// handlers implements the operations of the contract: each parses what the contract
// can't say, makes one call, and renders.
type handlers struct{ *Server }

var _ contract.StrictServerInterface = handlers{}

// connectionID reads the path's connection; a malformed one is as absent as any other.
func connectionID(text string) (tenants.ConnectionID, error) {
	id, err := tenants.ParseConnectionID(text)
	if err != nil {
		return id, fault.New(fault.NotFound, "There is no such connection.", err)
	}
	return id, nil
}

// sessionID reads the path's connect session.
func sessionID(text string) (tenants.SessionID, error) {
	id, err := tenants.ParseSessionID(text)
	if err != nil {
		return id, fault.New(fault.NotFound, "There is no such connect session.", err)
	}
	return id, nil
}

func newPagination(next string) contract.Pagination {
	if next == "" {
		return contract.Pagination{}
	}
	return contract.Pagination{NextCursor: &next, HasMore: true}
}

// each converts the items of a list; the result is never nil, which would be null.
func each[From, To any](items []From, convert func(From) To) []To {
	all := make([]To, 0, len(items))
	for _, item := range items {
		all = append(all, convert(item))
	}
	return all
}

// deref returns what an optional value holds, else T's zero value.
func deref[T any](value *T) T {
	if value == nil {
		var zero T
		return zero
	}
	return *value
}

// orNull returns nil, which is absent or null, for the zero value.
func orNull[T comparable](value T) *T {
	var zero T
	if value == zero {
		return nil
	}
	return &value
}
