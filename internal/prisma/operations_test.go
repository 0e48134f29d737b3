package prisma_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/prisma"
)

const (
	projectJSON = `{"id":"proj_1","type":"project","url":"https://x/1","name":"P","logicalId":null,` +
		`"createdAt":"2026-11-21T10:00:00Z","defaultRegion":"us-east-1","workspace":{"id":"wksp_1","url":"https://x/w","name":"W"}}`
	databaseJSON = `{"id":"db_1","type":"database","url":"https://x/2","name":"D","status":"ready",` +
		`"createdAt":"2026-11-21T10:00:00Z","isDefault":true,"defaultConnectionId":"con_2","connections":[` +
		`{"id":"con_1","type":"connection","url":"https://x/c","name":"A","createdAt":"2026-11-21T10:00:00Z","kind":"accelerate",` +
		`"endpoints":{"accelerate":{"host":"a","port":443,"connectionString":"prisma://a"}},"database":{"id":"db_1","url":"u","name":"D"}},` +
		`{"id":"con_2","type":"connection","url":"https://x/c","name":"B","createdAt":"2026-11-21T10:00:00Z","kind":"postgres",` +
		`"endpoints":{"direct":{"host":"h","port":5432,"connectionString":"postgres://direct"},` +
		`"pooled":{"host":"h","port":6432,"connectionString":"postgres://pooled"}},"database":{"id":"db_1","url":"u","name":"D"}}],` +
		`"project":{"id":"proj_1","url":"u","name":"P"},"region":null,"source":null,"branchId":null,"logicalId":"l"}`
	connectionJSON = `{"id":"con_1","type":"connection","url":"https://x/c","name":"A","createdAt":"2026-11-21T10:00:00Z",` +
		`"kind":"postgres","endpoints":{},"connectionString":"postgres://legacy","database":{"id":"db_1","url":"u","name":"D"},` +
		`"host":null,"pass":null,"user":null}`
	lastPage = `,"pagination":{"nextCursor":null,"hasMore":false}`
)

// operation is a call of one method, the request that it must make and an answer to it.
type operation struct {
	call    func(context.Context, *prisma.Client) (any, error)
	request string // method, path with query, body
	status  int
	answer  string // "" for none
	want    string // %v of what call returns
}

// operations holds one call of each method.
var operations = map[string]operation{
	"ListProjects": {
		func(ctx context.Context, c *prisma.Client) (any, error) {
			p, err := c.ListProjects(ctx, prisma.ProjectFilter{
				ListOptions: prisma.ListOptions{Cursor: "c&d", Limit: 2}, LogicalID: "l",
			})
			return []any{len(p.Items), p.Items[0].ID, p.NextCursor}, err
		},
		"GET /v1/projects?cursor=c%26d&limit=2&logicalId=l ", 200,
		`{"data":[` + projectJSON + `],"pagination":{"nextCursor":"n","hasMore":true}}`, "[1 proj_1 n]",
	},
	"GetProject": {
		func(ctx context.Context, c *prisma.Client) (any, error) {
			p, err := c.GetProject(ctx, "proj_1/../x?y")
			return []any{p.Name, p.DefaultRegion, p.Workspace.ID, p.LogicalID == "", p.CreatedAt.Unix()}, err
		},
		"GET /v1/projects/proj_1%2F..%2Fx%3Fy ", 200, `{"data":` + projectJSON + `}`, "[P us-east-1 wksp_1 true 1795255200]",
	},
	"CreateProject": {
		func(ctx context.Context, c *prisma.Client) (any, error) {
			p, err := c.CreateProject(ctx, prisma.NewProject{Name: "P", Region: "eu-west-3", LogicalID: "l"})
			return []any{p.ID, p.Database.ID, p.Database.ConnectionString()}, err
		},
		`POST /v1/projects {"name":"P","region":"eu-west-3","createDatabase":false,"logicalId":"l"}`, 201,
		`{"data":` + strings.TrimSuffix(projectJSON, "}") + `,"database":` + databaseJSON + `}}`,
		"[proj_1 db_1 postgres://direct]",
	},
	"DeleteProject": {
		func(ctx context.Context, c *prisma.Client) (any, error) { return nil, c.DeleteProject(ctx, "proj_1") },
		"DELETE /v1/projects/proj_1 ", 204, "", "<nil>",
	},
	"ListDatabases": {
		func(ctx context.Context, c *prisma.Client) (any, error) {
			p, err := c.ListDatabases(ctx, prisma.DatabaseFilter{ProjectID: "proj_1", LogicalID: "l"})
			return []any{p.Items[0].LogicalID, p.Items[0].Region == nil, p.NextCursor}, err
		},
		"GET /v1/databases?logicalId=l&projectId=proj_1 ", 200, `{"data":[` + databaseJSON + `]` + lastPage + `}`, "[l true ]",
	},
	"ListProjectDatabases": {
		func(ctx context.Context, c *prisma.Client) (any, error) {
			p, err := c.ListProjectDatabases(ctx, "proj_1", prisma.ListOptions{Limit: 5})
			return len(p.Items), err
		},
		"GET /v1/projects/proj_1/databases?limit=5 ", 200, `{"data":[]` + lastPage + `}`, "0",
	},
	"CreateDatabase": {
		func(ctx context.Context, c *prisma.Client) (any, error) {
			d, err := c.CreateDatabase(ctx, prisma.NewDatabase{ProjectID: "proj_1", Name: "D", LogicalID: "l"})
			return []any{d.Status, d.IsDefault, d.Project.ID}, err
		},
		`POST /v1/databases {"projectId":"proj_1","name":"D","logicalId":"l"}`, 201, `{"data":` + databaseJSON + `}`,
		"[ready true proj_1]",
	},
	"GetDatabase": {
		func(ctx context.Context, c *prisma.Client) (any, error) {
			d, err := c.GetDatabase(ctx, "db_1")
			return d.ID, err
		},
		"GET /v1/databases/db_1 ", 200, `{"data":` + databaseJSON + `}`, "db_1",
	},
	"DeleteDatabase": {
		func(ctx context.Context, c *prisma.Client) (any, error) { return nil, c.DeleteDatabase(ctx, "db_1") },
		"DELETE /v1/databases/db_1 ", 204, "", "<nil>",
	},
	"ListDatabaseConnections": {
		func(ctx context.Context, c *prisma.Client) (any, error) {
			p, err := c.ListDatabaseConnections(ctx, "db_1", prisma.ListOptions{})
			return p.Items[0].Database.ID, err
		},
		"GET /v1/databases/db_1/connections ", 200, `{"data":[` + connectionJSON + `]` + lastPage + `}`, "db_1",
	},
	"CreateDatabaseConnection": {
		func(ctx context.Context, c *prisma.Client) (any, error) {
			d, err := c.CreateDatabaseConnection(ctx, "db_1", "A")
			return d.ConnectionString(), err
		},
		`POST /v1/databases/db_1/connections {"name":"A"}`, 200, `{"data":` + connectionJSON + `}`, "postgres://legacy",
	},
	"RotateConnection": {
		func(ctx context.Context, c *prisma.Client) (any, error) {
			d, err := c.RotateConnection(ctx, "con_1")
			return d.ConnectionString(), err
		},
		"POST /v1/connections/con_1/rotate ", 200, `{"data":` + connectionJSON + `}`, "postgres://legacy",
	},
	"DeleteConnection": {
		func(ctx context.Context, c *prisma.Client) (any, error) { return nil, c.DeleteConnection(ctx, "con_1") },
		"DELETE /v1/connections/con_1 ", 204, "", "<nil>",
	},
	"ListPostgresRegions": {
		func(ctx context.Context, c *prisma.Client) (any, error) { return c.ListPostgresRegions(ctx) },
		"GET /v1/regions/postgres ", 200,
		`{"data":[{"id":"us-east-1","type":"region","name":"N","status":"available"}]}`, "[{us-east-1 N available}]",
	},
	"GetMe": {
		func(ctx context.Context, c *prisma.Client) (any, error) {
			p, err := c.GetMe(ctx)
			return []any{p.User == nil, p.Workspace.ID, p.Credential.Type}, err
		},
		"GET /v1/me ", 200,
		`{"data":{"user":null,"workspace":{"id":"wksp_1","name":"W"},"credential":{"type":"oauth","id":null,"name":null}}}`,
		"[true wksp_1 oauth]",
	},
	"ListWorkspaces": {
		func(ctx context.Context, c *prisma.Client) (any, error) {
			p, err := c.ListWorkspaces(ctx, prisma.ListOptions{})
			return p.Items[0].Name, err
		},
		"GET /v1/workspaces ", 200,
		`{"data":[{"id":"wksp_1","type":"workspace","url":"u","name":"W","createdAt":"2026-11-21T10:00:00Z"}]` + lastPage + `}`, "W",
	},
	"GetWorkspace": {
		func(ctx context.Context, c *prisma.Client) (any, error) {
			w, err := c.GetWorkspace(ctx, "wksp_1")
			return w.ID, err
		},
		"GET /v1/workspaces/wksp_1 ", 200,
		`{"data":{"id":"wksp_1","type":"workspace","url":"u","name":"W","createdAt":"2026-11-21T10:00:00Z"}}`, "wksp_1",
	},
	"RevokeWorkspaceIntegration": {
		func(ctx context.Context, c *prisma.Client) (any, error) {
			return nil, c.RevokeWorkspaceIntegration(ctx, "wksp_1", "client 1")
		},
		"DELETE /v1/workspaces/wksp_1/integrations/client%201 ", 204, "", "<nil>",
	},
}

// TestOperations calls each method and checks the request it makes, byte for byte, and
// one telling part of what it returns.
func TestOperations(t *testing.T) {
	t.Parallel()

	for name, tc := range operations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if got := fmt.Sprintf("%s %s %s", r.Method, r.RequestURI, body); got != tc.request {
					t.Errorf("request = %s, want %s", got, tc.request)
				}
				if got := r.Header.Get("Authorization"); got != "Bearer token" {
					t.Errorf("Authorization = %q", got)
				}
				if tc.answer != "" {
					w.Header().Set("Content-Type", "application/json; charset=utf-8")
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.answer)
			}))
			defer server.Close()
			got, err := tc.call(t.Context(), newClient(t, prisma.ClientConfig{BaseURL: server.URL}).WithToken("token"))
			if err != nil {
				t.Fatalf("error = %v", err)
			}
			if diff := cmp.Diff(tc.want, fmt.Sprintf("%v", got)); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}
