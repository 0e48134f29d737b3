package httpapi_test

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/tenants"
)

// auditPage is an answer of GET /v1/audit.
type auditPage struct {
	Data []struct {
		Sequence                  int
		At                        time.Time
		Action, Target, RequestID string
		IP                        *string
		Actor                     struct{ Type, ID string }
		Details                   map[string]any
	}
	Pagination struct {
		NextCursor *string
		HasMore    bool
	}
}

// A tenant reads its own log, page by page, with who, what and from where.
func TestAudit(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	other := w.NewTenant(t, "Bolt", nil)
	c := w.Connect(t, w.Tenant, "ada", workspaceA)
	w.Connect(t, other, "bob", workspaceB)
	get := func(query string) (page auditPage) {
		t.Helper()
		answer := w.Call(t, w.Tenant.Key, http.MethodGet, "/v1/audit"+query, nil)
		if answer.Status != http.StatusOK {
			t.Fatalf("%s: %d", query, answer.Status)
		}
		answer.JSON(t, &page)
		return page
	}
	all := get("").Data
	for i, e := range all {
		if e.Sequence != i+1 {
			t.Errorf("entry %d has the number %d", i+1, e.Sequence)
		}
	}
	last := all[len(all)-1]
	if last.Action != tenants.EventConnected || last.Target != c.ID || last.Actor.Type != "api_key" || last.Actor.ID == "" ||
		last.RequestID == "" || last.IP == nil || last.Details["userId"] != "ada" {
		t.Errorf("the last entry is %+v", last)
	}
	var paged []int
	for query := "?limit=2"; ; {
		page := get(query)
		for _, e := range page.Data {
			paged = append(paged, e.Sequence)
		}
		if page.Pagination.HasMore != (page.Pagination.NextCursor != nil) {
			t.Fatalf("pagination %+v", page.Pagination)
		}
		if !page.Pagination.HasMore {
			break
		}
		query = "?limit=2&cursor=" + *page.Pagination.NextCursor
	}
	if fmt.Sprint(paged) != fmt.Sprint(sequenceTo(len(all))) {
		t.Errorf("page by page: %v of %d", paged, len(all))
	}
	if got := get(fmt.Sprintf("?after=%d", len(all)-1)).Data; len(got) != 1 || got[0].Sequence != len(all) {
		t.Errorf("after the last but one: %+v", got)
	}
	if got := get("?action=connection.connected&target=" + c.ID).Data; len(got) != 1 || got[0].Sequence != last.Sequence {
		t.Errorf("filtered: %+v", got)
	}
	at := url.QueryEscape(last.At.Format(time.RFC3339Nano))
	for query, want := range map[string]int{
		"?from=" + at: 1, "?to=" + at: len(all) - 1, "?actor=" + last.Actor.ID + "&target=" + c.ID: 1, "?actor=key_unknown": 0,
	} {
		if got := get(query).Data; len(got) != want {
			t.Errorf("%s: %d entries, want %d", query, len(got), want)
		}
	}
	// A cursor is good for its own list and tenant.
	cursor := "cursor=" + *get("?limit=1").Pagination.NextCursor
	for key, query := range map[string]string{w.Tenant.Key: "?action=a.b&" + cursor, other.Key: "?" + cursor} {
		apitest.WantProblem(t, w.Call(t, key, http.MethodGet, "/v1/audit"+query, nil), http.StatusBadRequest, "invalid-request")
	}
	for bad, parameter := range map[string]string{
		"?limit=0": "limit", "?after=-1": "after", "?action=": "action", "?cursor=x": "cursor", "?actor=": "actor",
		"?from=yesterday": "from", "?from=" + at + "&to=" + at: "to", "?to=0001-01-01T00:00:00Z": "to",
		"?from=2026-03-01T12:00:00Z&" + cursor: "cursor", "?who=x": "",
	} {
		p := apitest.WantProblem(t, w.Call(t, w.Tenant.Key, http.MethodGet, "/v1/audit"+bad, nil), http.StatusBadRequest, "invalid-request")
		if p.Names(parameter) == (parameter == "") { // a name that is not known is input, and not repeated
			t.Errorf("%s points at %v", bad, p.Errors)
		}
	}
	key := w.NewKey(t, w.Tenant.ID, tenants.ScopeWrite)
	apitest.WantProblem(t, w.Call(t, key, http.MethodGet, "/v1/audit", nil), http.StatusForbidden, "forbidden-scope")
}

func sequenceTo(n int) (numbers []int) {
	for i := range n {
		numbers = append(numbers, i+1)
	}
	return numbers
}
