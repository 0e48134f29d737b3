package managementapi_test

import (
	"net/http"
	"testing"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// Which of the many connection strings of an answer opens the database.
func TestDatabaseURL(t *testing.T) {
	t.Parallel()
	const (
		direct   = `"direct": {"host": "h", "port": 1, "connectionString": "postgres://direct"}`
		pooled   = `"pooled": {"host": "h", "port": 1, "connectionString": "postgres://pooled"}`
		hostOnly = `"direct": {"host": "h", "port": 1}`
	)
	connection := func(id, endpoints string) string { return `{"id": "` + id + `", "endpoints": {` + endpoints + `}}` }
	tests := map[string]struct{ fields, want string }{
		"direct":              {`"connections": [` + connection("a", direct+","+pooled) + `]`, "postgres://direct"},
		"pooled":              {`"connections": [` + connection("a", pooled) + `]`, "postgres://pooled"},
		"default connection":  {`"defaultConnectionId": "b", "connections": [` + connection("a", direct) + `,` + connection("b", pooled) + `]`, "postgres://pooled"},
		"default shows none":  {`"defaultConnectionId": "b", "connections": [` + connection("a", direct) + `,` + connection("b", hostOnly) + `]`, "postgres://direct"},
		"null default":        {`"defaultConnectionId": null, "connections": [` + connection("a", direct) + `]`, "postgres://direct"},
		"connection before":   {`"connectionString": "postgres://old", "connections": [` + connection("a", direct) + `]`, "postgres://direct"},
		"deprecated":          {`"connectionString": "postgres://old", "connections": []`, "postgres://old"},
		"deprecated and null": {`"connectionString": null, "connections": []`, ""},
		"none":                {`"connections": []`, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := serve(t, answering(http.StatusCreated, "application/json", `{"data": {"id": "p", "database": {"id": "db", `+tc.fields+`}}}`))
			project, err := api.client(t).CreateProject(t.Context(), managementapi.CreateProjectRequest{})
			if got := project.DatabaseURL().Reveal(); err != nil || got != tc.want {
				t.Errorf("project: DatabaseURL() = %q, %v, want %q", got, err, tc.want)
			}
			api.answer(answering(http.StatusCreated, "application/json", `{"data": {"id": "db", `+tc.fields+`}}`))
			older, err := api.client(t).CreateProjectDatabase(t.Context(), "p", managementapi.CreateProjectDatabaseRequest{})
			if got := older.DatabaseURL().Reveal(); err != nil || got != tc.want {
				t.Errorf("project's database: DatabaseURL() = %q, %v, want %q", got, err, tc.want)
			}
			database, err := api.client(t).CreateDatabase(t.Context(), managementapi.CreateDatabaseRequest{})
			want := tc.want
			if name == "deprecated" {
				want = "" // this call never had it
			}
			if got := database.DatabaseURL().Reveal(); err != nil || got != want {
				t.Errorf("database: DatabaseURL() = %q, %v, want %q", got, err, want)
			}
		})
	}
	t.Run("connection", func(t *testing.T) {
		t.Parallel()
		for body, want := range map[string]string{
			`{"data": ` + connection("a", direct+","+pooled) + `}`:                                "postgres://direct",
			`{"data": ` + connection("a", pooled) + `}`:                                           "postgres://pooled",
			`{"data": {"id": "c", "connectionString": "prisma+postgres://old", "endpoints": {}}}`: "prisma+postgres://old",
		} {
			api := serve(t, answering(http.StatusOK, "application/json", body))
			made, err := api.client(t).RotateConnection(t.Context(), "con_1")
			if got := made.DatabaseURL().Reveal(); err != nil || got != want {
				t.Errorf("DatabaseURL() = %q, %v, want %q", got, err, want)
			}
		}
	})
	t.Run("null database", func(t *testing.T) {
		t.Parallel()
		api := serve(t, answering(http.StatusCreated, "application/json", `{"data": {"id": "p", "database": null}}`))
		project, err := api.client(t).CreateProject(t.Context(), managementapi.CreateProjectRequest{})
		if got := project.DatabaseURL().Reveal(); err != nil || got != "" || managementapi.Value(project.Database).ID != "" {
			t.Errorf("DatabaseURL() = %q, %v, want none", got, err)
		}
	})
}
