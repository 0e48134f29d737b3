package passthrough_test

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/connect-prisma/server/internal/provisioning/passthrough"
)

// upstream answers reads of what is to be deleted, and changing calls with a status; 0
// breaks the connection. It notes both.
type upstream struct {
	reads   map[string]string // bodies by path; without one 404
	status  int
	refuses bool // the first token

	mu   sync.Mutex
	seen []string
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.seen = append(u.seen, strings.TrimSuffix(r.Method+" "+r.URL.Path+"?"+r.URL.RawQuery, "?"))
	u.mu.Unlock()
	switch body, known := u.reads[r.URL.RequestURI()]; {
	case u.refuses && r.Header.Get("Authorization") == "Bearer first":
		w.WriteHeader(http.StatusUnauthorized)
	case r.Method == http.MethodGet && !known:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodGet:
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, body)
	case u.status == 0:
		panic(http.ErrAbortHandler)
	default:
		w.WriteHeader(u.status)
	}
}

// sent returns what has arrived.
func (u *upstream) sent() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.seen)
}

func database(id string) string {
	return `{"id": "` + id + `", "name": "a", "isDefault": false, "status": "ready", "createdAt": "2026-01-01T00:00:00Z", "project": {"id": "proj_9", "name": "a"}}`
}

// A deletion of what events tell of is noted before it is sent, with what goes with it as
// far as Prisma says, and told when it is done.
func TestDeletionsAreTold(t *testing.T) {
	t.Parallel()
	first, second := "/v1/projects/proj_1/databases?limit=100", "/v1/projects/proj_1/databases?cursor=c&limit=100"
	twoPages := map[string]string{
		first:  `{"data": [` + database("db_1") + `], "pagination": {"nextCursor": "c", "hasMore": true}}`,
		second: `{"data": [` + database("db_2") + `], "pagination": {"nextCursor": null, "hasMore": false}}`,
	}
	oneDatabase := map[string]string{"/v1/databases/db_1": `{"data": ` + database("db_1") + `}`}
	for name, tc := range map[string]struct {
		path string
		*upstream
		want string // of what is told
	}{
		"a project":                 {"/v1/projects/proj_1", &upstream{reads: twoPages, status: 204}, "deletes db_1 db_2 proj_1, told proj_1"},
		"a project, bare":           {"/v1/projects/1", &upstream{reads: twoPages, status: 204}, "deletes db_1 db_2 proj_1, told proj_1"},
		"a database":                {"/v1/databases/db_1", &upstream{reads: oneDatabase, status: 204}, "deletes proj_9 db_1, told proj_9 db_1"},
		"nobody says more":          {"/v1/databases/db_1", &upstream{status: 204}, "deletes db_1, told db_1"},
		"credentials":               {"/v1/connections/con_1", &upstream{status: 204}, "deletes con_1, told con_1"},
		"with a renewed token":      {"/v1/databases/db_1", &upstream{reads: oneDatabase, status: 204, refuses: true}, "deletes proj_9 db_1, told proj_9 db_1"},
		"it is the default":         {"/v1/databases/db_1", &upstream{status: 400}, "deletes db_1, cancelled"},
		"it is gone":                {"/v1/databases/db_1", &upstream{status: 404}, "deletes db_1, cancelled, told db_1"},
		"too many calls":            {"/v1/databases/db_1", &upstream{status: 429}, "deletes db_1, cancelled"},
		"a failure":                 {"/v1/databases/db_1", &upstream{status: 500}, "deletes db_1"},
		"no answer":                 {"/v1/databases/db_1", &upstream{}, "deletes db_1"},
		"no id of that kind":        {"/v1/databases/proj_1", &upstream{status: 404}, ""},
		"no id":                     {"/v1/databases/db_", &upstream{status: 404}, ""},
		"nothing that is told of":   {"/v1/branches/br_1", &upstream{status: 204}, ""},
		"of something that is none": {"/v1/buckets/b_1/keys/con_1", &upstream{status: 204}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, passthrough.Limits{}, tc.ServeHTTP)
			got := r.do(t, http.MethodDelete, tc.path, nil, nil)
			if want := cmp.Or(tc.status, http.StatusServiceUnavailable); got.status != want {
				t.Errorf("answered %d %s, want %d", got.status, got.body, want)
			}
			lines := slices.DeleteFunc(strings.Split(r.audit.log(), "\n"), func(line string) bool {
				return strings.HasPrefix(line, "begun") || strings.HasPrefix(line, "ended")
			})
			if told := strings.Join(lines, ", "); told != tc.want {
				t.Errorf("told %q, want %q", told, tc.want)
			}
			if sent := tc.sent(); sent[len(sent)-1] != "DELETE "+tc.path {
				t.Errorf("Prisma got %v", sent)
			}
		})
	}
}

// Nothing is deleted that could not be told.
func TestDeletionsThatCannotBeNoted(t *testing.T) {
	t.Parallel()
	up := &upstream{status: 204}
	r := newRig(t, passthrough.Limits{}, up.ServeHTTP)
	r.audit.undeletable = errors.New("the database is away")
	if got := r.do(t, http.MethodDelete, "/v1/databases/db_1", nil, nil); got.status != http.StatusInternalServerError {
		t.Errorf("answered %d", got.status)
	}
	if sent := up.sent(); slices.Contains(sent, "DELETE /v1/databases/db_1") {
		t.Errorf("Prisma got %v", sent)
	}
	if log := r.audit.log(); !strings.HasSuffix(log, "not_sent") {
		t.Errorf("the audit log says\n%s", log)
	}
}

// What is kept of a connection string is erased before it is rotated.
func TestRotationsForget(t *testing.T) {
	t.Parallel()
	up := &upstream{}
	r := newRig(t, passthrough.Limits{}, up.ServeHTTP)
	if got := r.do(t, http.MethodPost, "/v1/connections/con_1/rotate", nil, nil); got.status != http.StatusServiceUnavailable {
		t.Errorf("answered %d", got.status)
	}
	if log := r.audit.log(); !strings.Contains(log, "con_1\nforgets con_1\nended") {
		t.Errorf("the audit log says\n%s", log)
	}
}

// What is kept of connection strings to a branch's databases is erased before it is deleted.
func TestBranchesForget(t *testing.T) {
	t.Parallel()
	of := func(id, branch string) string {
		return strings.Replace(database(id), `"name": "a", `, `"name": "a", "branchId": "`+branch+`", `, 1)
	}
	up := &upstream{reads: map[string]string{
		"/v1/databases?branchId=br_1&limit=100": `{"data": [` + of("db_1", "br_1") + `, ` + of("db_2", "br_2") +
			`], "pagination": {"nextCursor": "c", "hasMore": true}}`,
		"/v1/databases?branchId=br_1&cursor=c&limit=100": `{"data": [` + of("db_3", "br_1") +
			`], "pagination": {"nextCursor": null, "hasMore": false}}`,
	}}
	r := newRig(t, passthrough.Limits{}, up.ServeHTTP)
	if got := r.do(t, http.MethodDelete, "/v1/branches/br_1", nil, nil); got.status != http.StatusServiceUnavailable {
		t.Errorf("answered %d", got.status)
	}
	if log := r.audit.log(); !strings.Contains(log, "br_1\nforgets those of db_1 db_3\nended") {
		t.Errorf("the audit log says\n%s; Prisma got %v", log, up.sent())
	}
}
