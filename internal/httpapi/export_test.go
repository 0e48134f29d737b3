package httpapi

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
)

// Routes lists what the router knows.
func (s *Server) Routes() []*echo.Route { return s.echo.Routes() }

// StatusOf is the status that a kind is sent with.
func StatusOf(k fault.Kind) int { return status(k) }

// TitleOf is the title of a kind, by its name.
func TitleOf(name string) string {
	if name == kindName(fault.Internal) {
		return explain(fault.Internal).Title
	}
	return explain(fault.Kind(name)).Title
}

// FurtherStatusesOf are those that a kind, by its name, is sent with besides StatusOf.
func FurtherStatusesOf(name string) (statuses []int) {
	k := fault.Kind(name)
	if name == kindName(fault.Internal) {
		k = fault.Internal
	}
	for _, one := range further(k) {
		statuses = append(statuses, one.Status)
	}
	return statuses
}

// BodyReader holds the bodies of requests against that of an operation.
func BodyReader(operationID string) (func(*http.Request) error, error) {
	operations, err := loadOperations()
	if err != nil {
		return nil, err
	}
	return func(r *http.Request) error { return readBody(r, operations[operationID].body) }, nil
}
