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

// ReadBody holds a request's body against that of an operation.
func ReadBody(r *http.Request, operationID string) error {
	operations, err := loadOperations()
	if err != nil {
		return err
	}
	return readBody(r, operations[operationID].body)
}
