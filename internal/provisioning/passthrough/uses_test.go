package passthrough_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/provisioning/passthrough"
	"github.com/connect-prisma/server/internal/tenants"
)

// lastUses returns what the last call was noted to use, sorted.
func (a *audit) lastUses() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.uses) == 0 {
		return nil
	}
	return slices.Sorted(slices.Values(a.uses[len(a.uses)-1]))
}

// What a changing call uses is noted before it is sent: the ids in its path, and those that
// its body names, however it is written; anything, if that can't be told. The body arrives
// as it was sent.
func TestUses(t *testing.T) {
	t.Parallel()
	long := func(head string) string { return `{"name": "` + strings.Repeat("x", 70<<10) + `", ` + head + `}` }
	anything := []string{tenants.Anything}
	tests := map[string]struct {
		line, body string
		encoding   string
		want       []string
	}{
		"rotate":                   {line: "POST /v1/connections/con_1/rotate", want: []string{"con_1"}},
		"rename":                   {line: "PATCH /v1/databases/db_1", body: `{"name": "a"}`, want: []string{"db_1"}},
		"move":                     {line: "PATCH /v1/databases/db_1", body: `{"branchId": "br_1"}`, want: []string{"br_1", "db_1"}},
		"below a database":         {line: "POST /v1/databases/db_1/connections", body: `{"name": "a"}`, want: []string{"db_1"}},
		"below a branch":           {line: "PUT /v1/projects/proj_1/branches/br_1/application-topology", body: `{}`, want: []string{"br_1", "proj_1"}},
		"no ids of Prisma's":       {line: "DELETE /v1/projects/proj_1/branches/br_1/alchemy-state/state/stacks/s", want: []string{"br_1", "proj_1"}},
		"a deletion":               {line: "DELETE /v1/connections/con_1"},
		"a deletion below":         {line: "DELETE /v1/buckets/b_1/keys/k_1", want: []string{"b_1"}},
		"credentials":              {line: "POST /v1/connections", body: `{"name": "a", "databaseId": "db_1"}`, want: []string{"db_1"}},
		"escaped names":            {line: "POST /v1/connections", body: `{"datab\u0061seId": "db\u005f1"}`, want: []string{"db_1"}},
		"named twice":              {line: "POST /v1/connections", body: `{"databaseId": "db_1", "databaseId": "db_2"}`, want: []string{"db_1", "db_2"}},
		"deep within":              {line: "POST /v1/databases", body: `{"a": [{}, {"b": {"projectId": "proj_1"}}], "source": {"databaseId": "db_1"}}`, want: []string{"db_1", "proj_1"}},
		"restored from":            {line: "POST /v1/databases/db_1/restore", body: `{"source": {"type": "backup", "databaseId": "db_2", "backupId": "b"}}`, want: []string{"db_1", "db_2"}},
		"copied from":              {line: "POST /v1/projects/proj_1/databases", body: `{"name": "a", "source": {"databaseId": "db_1"}}`, want: []string{"db_1", "proj_1"}},
		"copied from, as before":   {line: "POST /v1/projects/proj_1/databases", body: `{"id": "no", "fromDatabase": {"id": "db_1"}, "other": {"id": "no"}}`, want: []string{"db_1", "proj_1"}},
		"a value like a name":      {line: "POST /v1/databases", body: `{"name": "projectId", "region": "db_1", "projectId": "proj_1"}`, want: []string{"proj_1"}},
		"secrets are none":         {line: "POST /v1/environment-variables", body: `{"projectId": "proj_1", "key": "k", "value": "hunter2"}`, want: []string{"proj_1"}},
		"an empty body":            {line: "POST /v1/databases"},
		"no JSON":                  {line: "POST /v1/databases", body: `projectId=proj_1`, want: anything},
		"half of it":               {line: "POST /v1/databases", body: `{"projectId": "proj_1"`, want: anything},
		"too long to be looked at": {line: "POST /v1/databases", body: long(`"projectId": "proj_1"`), want: anything},
		"compressed":               {line: "POST /v1/databases", body: `{"projectId": "proj_1"}`, encoding: "gzip", want: anything},
		"long, and names nothing":  {line: "POST /v1/projects", body: long(`"createDatabase": false`)},
		"a read":                   {line: "GET /v1/connections/con_1"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := recording(t, passthrough.Limits{})
			method, path, _ := strings.Cut(tc.line, " ")
			var body io.Reader
			if tc.body != "" {
				body = strings.NewReader(tc.body)
			}
			got := r.do(t, method, path, body, func(req *http.Request) {
				if tc.encoding != "" {
					req.Header.Set("Content-Encoding", tc.encoding)
				}
			})
			if all := r.arrived(); got.status != http.StatusOK || all[len(all)-1].body != tc.body {
				t.Errorf("answered %d %s; %d bytes of %d arrived", got.status, got.body, len(all[len(all)-1].body), len(tc.body))
			}
			if uses := r.audit.lastUses(); !slices.Equal(uses, tc.want) {
				t.Errorf("uses = %v, want %v", uses, tc.want)
			}
		})
	}
}

// A body that was looked at is sent again whole after a refused token.
func TestUsesBeforeARenewal(t *testing.T) {
	t.Parallel()
	const body = `{"projectId": "proj_1"}`
	r := newRig(t, passthrough.Limits{}, func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") == "Bearer first" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	got := r.do(t, http.MethodPost, "/v1/databases", strings.NewReader(body), nil)
	all := r.arrived()
	if got.status != http.StatusOK || len(all) != 2 || all[0].body != body || all[1].body != body {
		t.Errorf("answered %d, arrived %d times", got.status, len(all))
	}
	if uses := r.audit.lastUses(); !slices.Equal(uses, []string{"proj_1"}) {
		t.Errorf("uses = %v", uses)
	}
}
