package passthrough

import "github.com/connect-prisma/server/internal/prisma/managementapi"

// Decision is one row of the table of decisions.
type Decision struct{ Method, Path, Refusal string }

// Decisions returns the table.
func Decisions() []Decision {
	var all []Decision
	for _, d := range decisions() {
		all = append(all, Decision{d.method, d.path, d.refusal})
	}
	return all
}

// Routes matches as a Proxy does.
type Routes struct{ routes routes }

// NewRoutes reads the interface document.
func NewRoutes() (Routes, error) {
	r, err := newRoutes(managementapi.Document(), decisions())
	return Routes{r}, err
}

// Match returns the operation, its path written anew, and what it is about.
func (r Routes) Match(method, path string) (operation, canonical, id string, err error) {
	t, err := r.routes.match(method, path)
	if err != nil {
		return "", "", "", err
	}
	return t.op.String(), t.path, t.id, nil
}
