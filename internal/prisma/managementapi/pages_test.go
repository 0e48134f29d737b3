package managementapi_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// paged starts an upstream whose pages are told by their cursors: the ids of the items and
// the next cursor, "" for the last.
func paged(t *testing.T, pages map[string][2]string) *upstream {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		page, ok := pages[r.URL.Query().Get("cursor")]
		if !ok {
			answering(http.StatusBadRequest, "application/json", `{"error": {"code": "bad-cursor"}}`)(w, r)
			return
		}
		type item struct {
			ID string `json:"id"`
		}
		items := []item{}
		for id := range strings.FieldsSeq(page[0]) {
			items = append(items, item{id})
		}
		next := map[string]any{"nextCursor": nil, "hasMore": false}
		if page[1] != "" {
			next = map[string]any{"nextCursor": page[1], "hasMore": true}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"data": items, "pagination": next})
	})
}

func TestAllPages(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		pages map[string][2]string
		from  string // the first cursor
		stop  string // leave the loop at this id
		want  string
		calls string // the cursors asked for
		err   string
	}{
		"one page":          {pages: map[string][2]string{"": {"a b", ""}}, want: "a b", calls: "|"},
		"no items":          {pages: map[string][2]string{"": {}}, calls: "|"},
		"three pages":       {pages: map[string][2]string{"": {"a b", "1"}, "1": {"c", "2"}, "2": {"d", ""}}, want: "a b c d", calls: "|1|2|"},
		"from a cursor":     {pages: map[string][2]string{"": {"a", "1"}, "1": {"b", "2"}, "2": {"c", ""}}, from: "1", want: "b c", calls: "1|2|"},
		"empty pages":       {pages: map[string][2]string{"": {"", "1"}, "1": {"", "2"}, "2": {"a", ""}}, want: "a", calls: "|1|2|"},
		"left at once":      {pages: map[string][2]string{"": {"a b", "1"}}, stop: "a", want: "a", calls: "|"},
		"left at the end":   {pages: map[string][2]string{"": {"a b", "1"}, "1": {"c", ""}}, stop: "b", want: "a b", calls: "|"},
		"fails on page 2":   {pages: map[string][2]string{"": {"a", "x"}}, want: "a", calls: "|x|", err: "prisma: status 400: bad-cursor (not documented for this call)"},
		"fails on page 1":   {pages: map[string][2]string{}, calls: "|", err: "prisma: status 400: bad-cursor (not documented for this call)"},
		"same cursor":       {pages: map[string][2]string{"": {"a", "1"}, "1": {"b", "1"}}, want: "a", calls: "|1|", err: "prisma: no usable answer: the next page's cursor is that of a page before"},
		"cursors in a turn": {pages: map[string][2]string{"": {"a", "1"}, "1": {"b", "2"}, "2": {"c", "1"}}, want: "a b", calls: "|1|2|", err: "prisma: no usable answer: the next page's cursor is that of a page before"},
		"escaped cursor":    {pages: map[string][2]string{"": {"a", "é&=/ +%"}, "é&=/ +%": {"b", ""}}, want: "a b", calls: "|é&=/ +%|"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := paged(t, tc.pages)
			var ids []string
			var last error
			for project, err := range api.client(t).AllProjects(t.Context(), managementapi.ListProjectsParams{Cursor: tc.from, Limit: 7, LogicalID: "l"}) {
				if last != nil {
					t.Fatal("the loop goes on after an error")
				}
				if last = err; err != nil {
					continue
				}
				if ids = append(ids, project.ID); project.ID == tc.stop {
					break
				}
			}
			if got := strings.Join(ids, " "); got != tc.want {
				t.Errorf("items = %q, want %q", got, tc.want)
			}
			if text := fmt.Sprint(last); last != nil && text != tc.err || last == nil && tc.err != "" {
				t.Errorf("error = %v, want %q", last, tc.err)
			}
			var calls strings.Builder
			for _, request := range api.taken() {
				query := request.URL.Query()
				calls.WriteString(query.Get("cursor") + "|")
				if query.Get("limit") != "7" || query.Get("logicalId") != "l" {
					t.Errorf("query = %v, want the limit and the logical id on every page", query)
				}
			}
			if calls.String() != tc.calls {
				t.Errorf("cursors = %q, want %q", calls.String(), tc.calls)
			}
		})
	}
}

// The iterator may be ranged over again, from the start.
func TestAllPagesAgain(t *testing.T) {
	t.Parallel()
	api := paged(t, map[string][2]string{"": {"a", "1"}, "1": {"b", ""}})
	all := api.client(t).AllProjects(t.Context(), managementapi.ListProjectsParams{})
	for range 2 {
		var ids strings.Builder
		for project, err := range all {
			if err != nil {
				t.Fatal(err)
			}
			ids.WriteString(project.ID)
		}
		if ids.String() != "ab" {
			t.Errorf("items = %s, want ab", ids.String())
		}
	}
}

// Every All… method pages through the list of its name, with the same ids and parameters.
func TestEveryIterator(t *testing.T) {
	t.Parallel()
	eachOperation(t, func(t *testing.T, op operation) {
		t.Helper()
		if !op.pages(t) {
			return
		}
		api := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			next := `{"nextCursor": "next", "hasMore": true}`
			if r.URL.Query().Get("cursor") == "next" {
				next = `{"nextCursor": null, "hasMore": false}`
			}
			_, _ = io.WriteString(w, `{"data": [{}, {}], "pagination": `+next+`}`)
		})
		args := op.arguments(t, true, mode{})
		client := reflect.ValueOf(api.client(t))
		method := client.MethodByName("All" + strings.TrimPrefix(op.name, "List"))
		in := []reflect.Value{reflect.ValueOf(t.Context())}
		for _, id := range args.ids {
			in = append(in, reflect.ValueOf(id))
		}
		in = append(in, paramStruct(t, method.Type().In(len(in)), args.params))
		out := drain(method.Call(in)[0])
		if out.err != nil || len(out.records) != 4 {
			t.Errorf("%d items, %v, want 4", len(out.records), out.err)
		}
		requests := api.taken()
		if len(requests) != 2 {
			t.Fatalf("%d requests, want 2", len(requests))
		}
		checkRequest(t, op, args, requests[0])
		args.params["cursor"] = "next"
		checkRequest(t, op, args, requests[1])
	})
}
