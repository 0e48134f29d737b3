package httpapi_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/connect-prisma/server/internal/apitest"
)

// listed is a page of any list.
type listed struct {
	Data       []struct{ ID string }
	Pagination struct {
		NextCursor *string
		HasMore    bool
	}
}

// walk reads a list of one item a page to its end and returns the ids. between is called
// with the id of each page.
func walk(t *testing.T, w *apitest.World, path string, between func(id string)) (ids []string) {
	t.Helper()
	for cursor := ""; ; {
		var p listed
		answer := w.Call(t, w.Tenant.Key, http.MethodGet, path+"limit=1"+cursor, nil)
		if answer.Status != http.StatusOK {
			t.Fatalf("%s: %d %s", path, answer.Status, answer.Body)
		}
		answer.JSON(t, &p)
		if p.Pagination.HasMore != (p.Pagination.NextCursor != nil) || len(p.Data) > 1 {
			t.Fatalf("%s: %d items, more %t", path, len(p.Data), p.Pagination.HasMore)
		}
		for _, one := range p.Data {
			ids = append(ids, one.ID)
			between(one.ID)
		}
		if !p.Pagination.HasMore {
			return ids
		}
		cursor = "&cursor=" + url.QueryEscape(*p.Pagination.NextCursor)
	}
}

// Connections come the oldest first, whatever happens to them meanwhile: each that was
// there all the time once, a new one at the end, and the page behind one that is gone.
func TestConnectionsComeOldestFirst(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	var made []string
	for i := range 6 {
		made = append(made, w.Connect(t, w.Tenant, fmt.Sprintf("user%d", 9-i), workspaceA).ID)
	}
	w.Connect(t, w.Tenant, "user9", workspaceA) // the first again, which stays where it was
	if got := walk(t, w, "/v1/connections?", func(string) {}); !slices.Equal(got, made) {
		t.Fatalf("they come as %v, made as %v", got, made)
	}
	late := ""
	got := walk(t, w, "/v1/connections?", func(id string) {
		switch id {
		case made[1]: // the page ends with it
			w.Call(t, w.Tenant.Key, http.MethodDelete, "/v1/connections/"+id, nil)
		case made[3]:
			w.Call(t, w.Tenant.Key, http.MethodDelete, "/v1/connections/"+made[4], nil)
			late = w.Connect(t, w.Tenant, "late", workspaceA).ID
		}
	})
	if want := []string{made[0], made[1], made[2], made[3], made[5], late}; !slices.Equal(got, want) {
		t.Errorf("walked through %v, want %v", got, want)
	}
}

// The cursors of lists that Prisma pages hold for one list of one tenant, as ours do, and
// Prisma sees its own.
func TestCursorsOfWhatPrismaPages(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	base, database := workspace(t, w)
	another := "/v1/connections/" + w.Connect(t, w.Tenant, "ada", workspaceB).ID
	other := w.NewTenant(t, "Other", nil)
	theirs := "/v1/connections/" + w.Connect(t, other, "ada", workspaceA).ID
	at := "/databases/" + database.ID
	for _, path := range []string{"/projects", "/databases", at + "/credentials"} {
		body := map[string]string{"name": "second", "region": "us-east-1"}
		if path == at+"/credentials" {
			body = map[string]string{"name": "second"}
		}
		if answer := w.Call(t, w.Tenant.Key, http.MethodPost, base+path, body); answer.Status != http.StatusCreated {
			t.Fatalf("POST %s: %d %s", path, answer.Status, answer.Body)
		}
		var all listed
		w.Call(t, w.Tenant.Key, http.MethodGet, base+path, nil).JSON(t, &all)
		ids := walk(t, w, base+path+"?", func(string) {})
		if !slices.EqualFunc(ids, all.Data, func(id string, one struct{ ID string }) bool { return id == one.ID }) || len(ids) < 2 {
			t.Errorf("%s: walked through %v of %v", path, ids, all.Data)
		}
		var first listed
		w.Call(t, w.Tenant.Key, http.MethodGet, base+path+"?limit=1", nil).JSON(t, &first)
		cursor := *first.Pagination.NextCursor
		edited := []byte(cursor)
		edited[3] ^= 1
		for what, answer := range map[string]apitest.Answer{
			"an edited cursor":            w.Call(t, w.Tenant.Key, http.MethodGet, base+path+"?cursor="+string(edited), nil),
			"Prisma's own":                w.Call(t, w.Tenant.Key, http.MethodGet, base+path+"?cursor="+first.Data[0].ID, nil),
			"through another connection":  w.Call(t, w.Tenant.Key, http.MethodGet, another+path+"?cursor="+cursor, nil),
			"of another tenant":           w.Call(t, other.Key, http.MethodGet, theirs+path+"?cursor="+cursor, nil),
			"of another list":             w.Call(t, w.Tenant.Key, http.MethodGet, "/v1/connections?cursor="+cursor, nil),
			"of the list beside":          w.Call(t, w.Tenant.Key, http.MethodGet, base+beside(path)+"?cursor="+cursor, nil),
			"of another database's":       w.Call(t, w.Tenant.Key, http.MethodGet, base+"/databases/db_x/credentials?cursor="+cursor, nil),
			"with a filter that is added": w.Call(t, w.Tenant.Key, http.MethodGet, base+"/databases?projectId="+database.ProjectID+"&cursor="+cursor, nil),
		} {
			apitest.WantProblem(t, answer, http.StatusBadRequest, "invalid-request")
			var p apitest.Problem
			answer.JSON(t, &p)
			if !p.Names("cursor") {
				t.Errorf("%s: %s does not name the cursor: %v", path, what, p.Errors)
			}
		}
	}
}

func beside(path string) string {
	if path == "/projects" {
		return "/databases"
	}
	return "/projects"
}
